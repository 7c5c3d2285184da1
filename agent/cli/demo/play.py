"""Sets the demo's stage, tells the story, and cleans up whatever happens."""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

from agent.cli.demo.story import Step, Story
from agent.lab.mesh import MeshError
from agent.lab.stage import StageError
from agent.lab.webserver import WebServerError

EXIT_FALSE = 1
EXIT_USAGE = 2


def play(*, keep: bool, as_json: bool) -> NoReturn:
    """Plays the whole demo, and ends with its exit status."""
    if os.geteuid() != 0:
        sys.stderr.write("quietwire demo makes network namespaces: run it as root, for example sudo make demo\n")
        sys.exit(EXIT_USAGE)
    # Set for SIGINT too: a shell that runs this in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix="quietwire-demo-"))
    story = Story(directory, (lambda _: None) if as_json else tell)
    status = EXIT_FALSE
    try:
        if not as_json:
            sys.stdout.write(
                "Three pods on a bridge: webapp and api are meshed, stranger is not. Starting the agent …\n"
            )
        story.set_up()
        steps = story.play()
        status = 0 if all(step.ok for step in steps) else EXIT_FALSE
        _conclude(steps, as_json=as_json)
        if keep:
            _explore(story)
    except (StageError, MeshError, WebServerError) as error:
        sys.stderr.write(f"quietwire demo: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("\nquietwire demo: interrupted, cleaning up\n")
        status = 130
    finally:
        # A second ^C must not leave half of it behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        story.close()
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _conclude(steps: list[Step], *, as_json: bool) -> None:
    if as_json:
        report = {step.key: {"ok": step.ok, "title": step.title, "evidence": step.evidence} for step in steps}
        sys.stdout.write(json.dumps({"ok": all(step.ok for step in steps), **report}) + "\n")
    else:
        good = sum(step.ok for step in steps)
        sys.stdout.write(f"\n{good} of {len(steps)} as they should be.\n")
    sys.stdout.flush()


def tell(step: Step) -> None:
    """One step for people: whether it was so, and what was seen."""
    number = {"reached": 1, "encrypted": 2, "identities": 3, "stranger_refused": 4, "policy_live": 5, "fail_closed": 6}
    lines = [f"\n{number[step.key]}. {step.title}: {'yes' if step.ok else 'NO'}"]
    for key, value in asdict(step)["evidence"].items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"   {key.replace('_', ' ')}: {shown}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _explore(story: Story) -> None:
    api = story.stage.players["api"]
    sys.stdout.write(
        f"""
Everything stays until ^C. To explore:
  ip netns exec webapp curl http://api.demo.svc.cluster.local:8080/
  ip netns exec stranger curl http://{api.ipv4}:8080/
  ip netns exec {story.stage.hub} tcpdump -ni br0 -X port 8080
  curl http://{story.mesh.admin}/ready; curl http://{story.mesh.admin}/metrics
  quietwire init check --netns api; quietwire init show
  the manifests, followed live:  {story.mesh.manifests}
  the agent's log:               {story.mesh.log_path}
"""
    )
    sys.stdout.flush()
    threading.Event().wait()
