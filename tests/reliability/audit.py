"""Known vulnerabilities of what requirements.lock names: ``python -m tests.reliability.audit``.

pip-audit is fetched into a scratch folder and asks osv.dev. Without network it is said how old the lock is. Exit code 1
when something was found.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fetched = run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "pip-audit"])
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--require-hashes"]
        command += ["--vulnerability-service", "osv", "--format", "json", "--timeout", "10"]
        done = run(command, PYTHONPATH=folder) if fetched.returncode == 0 else fetched
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
        print(f"not audited ({reason}); requirements.lock is of {age()}")
        return
    found = [(each["name"], each["version"], hole["id"]) for each in audited for hole in each.get("vulns", [])]
    print(f"{len(audited)} locked requirements audited, {len(found)} known vulnerabilities; the lock is of {age()}")
    for name, version, hole in found:
        print(f"  {name} {version}: {hole}")
    sys.exit(1 if found else 0)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def age() -> str:
    """When the lock was last changed, and how many days ago that is."""
    committed = run(["git", "-C", str(LOCK.parent), "log", "-1", "--format=%cs", "--", LOCK.name]).stdout.strip()
    if not committed:
        return "an unknown day"
    return f"{committed}, {(datetime.date.today() - datetime.date.fromisoformat(committed)).days} days ago"


if __name__ == "__main__":
    main()
