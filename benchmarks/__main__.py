"""Every benchmark in turn, each with its own table, and at the end one table of all: figure, baseline, ratio, target.

    python benchmarks [NAME ...]

Names are those of the files, without .py; all by default. Exit code 1 when one of them failed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _report import FIGURES, table

_HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run them, and print the table of all."""
    known = sorted(path.stem for path in _HERE.glob("[a-z]*.py"))
    names = sys.argv[1:] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {' '.join(unknown)}: there are {' '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    with tempfile.TemporaryDirectory() as folder, table("all benchmarks", *_HEADS) as rows:
        for name in names:
            print(f"== {name}", flush=True)
            path = Path(folder) / f"{name}.jsonl"
            path.touch()
            environ = {**os.environ, FIGURES: str(path)}
            if subprocess.run([sys.executable, str(_HERE / f"{name}.py")], env=environ, check=False).returncode:
                failed.append(name)
            rows += [(*json.loads(line), name) for line in path.read_text(encoding="utf-8").splitlines()]
        rows += [(f"{name} failed", "", "", "", "", name) for name in failed]
    return 1 if failed else 0


_HEADS = ("what", "measured", "baseline of the same run", "ratio", "target", "benchmark")

if __name__ == "__main__":
    sys.exit(main())
