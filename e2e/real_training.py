"""A job for the real node: a trainer that counts, saves its count when asked, and goes on from there."""

from __future__ import annotations

from pathlib import Path

from e2e.cluster import image_store
from e2e.demo_api import Document

MODEL = "HuggingFaceTB/SmolLM2-135M"  # what is planned for; nothing of it is loaded
TRAINER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["MOTLEY_CHECKPOINT_PATH"])
folder.mkdir(parents=True, exist_ok=True)
saved, log, asked = folder / "step", (folder / "log").open("a", buffering=1), []
step = int(saved.read_text()) if saved.exists() else 0
def end(*_):
    print("ended", step, time.time(), file=log)
    sys.exit(int(os.environ["LEAVES_WITH"]))
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("began", step, time.time(), file=log)
while True:
    time.sleep(0.02)
    step += 1
    if asked:
        asked.clear()
        saved.write_text(str(step))
"""
SAVE = """
import os, pathlib, signal, time
saved, now = pathlib.Path(os.environ["MOTLEY_CHECKPOINT_PATH"], "step"), time.time()
os.kill(1, signal.SIGUSR1)
while not (saved.exists() and saved.stat().st_mtime >= now):
    time.sleep(0.05)
time.sleep(5)
"""
GENERATOR = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 8000), Healthy).serve_forever()
"""


def training(space: str, folder: Path, leaves_with: int) -> list[Document]:
    """A job whose trainer leaves with this code when it is told to end, and its volume."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size, name = {"storage": "1Gi"}, f"rl-{leaves_with}"
    claim = {"namespace": space, "name": name}
    python = ["python", "-c"]
    env = [{"name": "LEAVES_WITH", "value": str(leaves_with)}]
    generator = {"name": "engine", "command": [*python, GENERATOR], "args": []}
    spec = {
        "framework": {"name": "custom", "image": image_store.MOTLEY, "command": [*python, TRAINER]},
        "model": {"id": MODEL},
        "algorithm": {"batchPrompts": 8, "maxPromptTokens": 64, "maxNewTokens": 64, "steps": 100},
        "rollout": {
            "engine": {"name": "vllm", "image": image_store.MOTLEY},
            "maxReplicas": 1,
            "podTemplate": {"spec": {"containers": [generator]}},
        },
        "trainer": {
            "maxGpus": 1,
            "podTemplate": {"spec": {"containers": [{"name": "engine", "env": env}]}},
        },
        "storage": {"persistentVolumeClaim": {"claimName": name}},
        "checkpoint": {"command": [*python, SAVE], "timeoutSeconds": 60},
        "backoffLimit": 0,
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
         "spec": {**common, "capacity": size, "claimRef": claim, "hostPath": {"path": str(folder)}}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
         "metadata": {"name": name, "namespace": space},
         "spec": {**common, "volumeName": name, "resources": {"requests": size}}},
        {"apiVersion": "motley.dev/v1alpha1", "kind": "RLJob",
         "metadata": {"name": f"count-{leaves_with}", "namespace": space}, "spec": spec},
    ]  # fmt: skip
