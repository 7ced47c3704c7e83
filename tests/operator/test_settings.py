"""Flags and environment become one frozen value."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import pytest

from motley_operator.settings import Settings, add_flags, from_args


def read(words: str, environ: Mapping[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return from_args(parser.parse_args(words.split()), environ or {})


def test_without_flags_and_variables_the_defaults_hold() -> None:
    assert read("") == Settings()


def test_flags_win_over_variables() -> None:
    environ = {"MOTLEY_TIME_LIMIT": "9", "MOTLEY_IDLE_WINDOW": "0.5"}
    settings = read("--time-limit 3", environ)
    assert (settings.time_limit_s, settings.idle_window_s) == (3.0, 0.5)


def test_namespaces_are_listed_once_each() -> None:
    assert read("-n a -n b -n a").namespaces == ("a", "b")
    assert read("", {"MOTLEY_NAMESPACE": "x, y"}).namespaces == ("x", "y")
    assert read("").clusterwide
    assert not read("-n a").clusterwide


def test_class_is_the_short_name_of_resource_class() -> None:
    assert read("--class blue").resource_class == "blue"


def test_each_class_has_a_lease_of_its_own_unless_one_is_named() -> None:
    assert read("--leader-elect").lease == "motley"
    assert read("--leader-elect --class blue").lease == "motley-blue"
    assert read("--leader-elect --class blue --lease ops/mine").lease == "ops/mine"
    assert read("--class Team/Blue!").resource_class == "Team/Blue!"  # alone there is no lease
    with pytest.raises(ValueError, match="give --lease NAME"):
        read("--leader-elect --class Team/Blue!")


@pytest.mark.parametrize(
    ("words", "environ", "named"),
    [
        ("", {"MOTLEY_TIME_LIMIT": "soon"}, "MOTLEY_TIME_LIMIT"),
        ("", {"MOTLEY_LOG_FORMAT": "xml"}, "MOTLEY_LOG_FORMAT"),
        ("--max-wait -1", {}, "max_wait_s"),
    ],
)
def test_bad_values_are_named(words: str, environ: Mapping[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read(words, environ)
