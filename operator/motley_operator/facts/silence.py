"""How long a watch may say nothing before it is taken for dead.

Theory of operation. Once a minute the API server's watch cache offers each watch a bookmark, and sends it only
if the cache is past the version that the watch began at (k8s.io/apiserver 0.30 to 0.36, storage/cacher:
`Cacher.dispatchEvents`, `cacheWatcher.process`). After its first bookmark a watch hears one every minute, so it is
dead after SILENCE_S without a word. Before, it may as well be idle: the cache comes past when something of the kind is
written, when somebody asks for an up-to-date list of it, and when etcd tells of progress. That is every 5 s
as kubeadm sets etcd up, and every 10 to 11 minutes by etcd's own default (etcdserver/api/v3rpc/watch.go:
`progressReportInterval` and a tenth of it). A watch that is cut before goes on where it began: it would be cut again
each SILENCE_S, up to seven times in a row, and so after each watch that the server ends.

So the time that is given before the first bookmark doubles each time that it was too short, up to LONGEST_S, and
stays: an etcd that was silent once will be so again. The price is at most three ends more of each reflector, once in its
life (after 90, 180 and 360 s), and that a watch which dies before its first bookmark is found as much later.
"""

from __future__ import annotations

SILENCE_S = 90.0  # bookmarks come every 60 s, within a second
# Before the first bookmark: longer than etcd's 11 minutes and the minute until the next bookmark.
LONGEST_S = 900.0


class Silence:
    """What one reflector has learned of its kind's silence."""

    def __init__(self) -> None:
        self._first_s = SILENCE_S
        self._marked = False  # whether this watch has had a bookmark

    def begins(self) -> None:
        """A watch begins."""
        self._marked = False

    def marked(self) -> None:
        """It had a bookmark: from now on one comes every minute."""
        self._marked = True

    def limit_s(self) -> float:
        """Seconds without a word after which it is given up."""
        return SILENCE_S if self._marked else self._first_s

    def given_up(self) -> None:
        """Nothing was heard for that long."""
        if not self._marked:
            self._first_s = min(2.0 * self._first_s, LONGEST_S)
