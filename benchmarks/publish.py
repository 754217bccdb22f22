"""How fast codes are written to and read from the sqlite online store, and how many bytes a row takes.

Command: python benchmarks/publish.py [--rows 50000] [--code-bytes 3]

Result (two shared cores, Feast 0.67, 2026-11): import feast 4.4 s; 50,000 rows
    feast: apply 16 ms; 42,208 rows/s, 38,480 when they are there already; 184 bytes/row
    bulk : apply 7 ms; 281,059 rows/s, 348,853 when they are there already; 184 bytes/row
    fetch     1 keys: p50 0.1 ms, p99 0.2 ms
    fetch    40 keys: p50 0.9 ms, p99 1.2 ms
    fetch 4,000 keys: p50 162.4 ms, p99 248.5 ms
Writing is a third slower, and reading two times, when the other core is busy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np

from mec.publish.definitions import Published, build_definitions
from mec.publish.embedded import embedded_repo
from mec.publish.online_value import encode, feature_name
from mec.publish.reader import CodesReader
from mec.publish.store import open_store
from mec.publish.writer import open_writer

CODEBOOK = "0a0b0c0d-1111-4111-8111-111111111111"
BATCH_ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--code-bytes", type=int, default=3, help="packed codes per value, the tag of 4 left out")
    arguments = parser.parse_args()
    start = time.perf_counter()
    import feast

    print(f"import feast {feast.__version__}: {time.perf_counter() - start:.1f} s; {arguments.rows:,} rows")
    rng = np.random.default_rng(0)
    keys = sorted((f"item={i}" for i in range(arguments.rows)), key=lambda key: (len(key), key))
    values = encode(CODEBOOK, rng.integers(0, 256, (arguments.rows, arguments.code_bytes), np.uint8))
    view = feature_name(CODEBOOK)
    for writer in ("feast", "bulk"):
        with tempfile.TemporaryDirectory() as root:
            repo = embedded_repo(Path(root))
            store = open_store(repo)
            start = time.perf_counter()
            store.apply(
                build_definitions(Published(CODEBOOK, "codes", 0, len(keys), "writing", "2026-01-01T00:00:00+00:00"))
            )
            apply_s = time.perf_counter() - start
            write = open_writer(writer, store, view, datetime.now(UTC)).write  # type: ignore[arg-type]
            seconds = []
            for _ in ("new", "again"):
                start = time.perf_counter()
                for first in range(0, len(keys), BATCH_ROWS):
                    write(keys[first : first + BATCH_ROWS], values[first : first + BATCH_ROWS])
                seconds.append(time.perf_counter() - start)
            size = (repo / "data" / "online.db").stat().st_size
            print(
                f"{writer:5}: apply {apply_s * 1e3:.0f} ms; {len(keys) / seconds[0]:,.0f} rows/s, "
                f"{len(keys) / seconds[1]:,.0f} when they are there already; {size / len(keys):.0f} bytes/row"
            )
            if writer == "bulk":
                reader = CodesReader(repo, view, CODEBOOK)
                for num in (1, 40, 4_000):
                    times = []
                    for _ in range(10 if num == 4_000 else 200):
                        asked = [keys[i] for i in rng.integers(0, len(keys), num)]
                        start = time.perf_counter()
                        reader.fetch(asked)
                        times.append(time.perf_counter() - start)
                    p99 = sorted(times)[int(0.99 * (len(times) - 1))]
                    print(f"fetch {num:5,} keys: p50 {median(times) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
