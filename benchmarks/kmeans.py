"""k-means and product codebooks against faiss: time and distortion at the same N, K and iterations.

    python benchmarks/kmeans.py                 # one thread; --threads 2 for two
    python benchmarks/kmeans.py --mec           # and the full MEC objective, some minutes
    python benchmarks/kmeans.py --memory mec    # peak memory of one fit beside the points, as a share of them

Both sides see all N points in every iteration (faiss would otherwise take 256 per codeword), unweighted, without
early stop, in one process with the same number of threads; the best of --repeats runs each, taken in turns. On a
machine with other work, compare CPU seconds (with one thread): wall times then say who was disturbed.

2026-11-21, two busy cores (AMD EPYC, AVX-512), torch 2.13.0, faiss-cpu 1.15.1, N 1,000,000, D 32, K 256, one thread;
about 60 s for the first command, 50 s with --iterations 25 --repeats 1. CPU seconds and mean squared error:

    iterations              mec    faiss   ratio     mec error   faiss error
    10   k-means           2.77     2.76    1.00       44.0280       44.0213
    10   product M=8       9.27     6.52    1.42        6.2279        6.2604
    25   k-means           6.29     7.61    0.83       43.5597       43.5746
    25   product M=8      20.35    15.98    1.27        6.1652        6.1763

Fewer points or iterations compare worse: seeding by greedy k-means++ costs mec about 0.1 s per codebook at any N.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000, help="N")
    parser.add_argument("--dim", type=int, default=32, help="D")
    parser.add_argument("--codewords", type=int, default=256, help="K")
    parser.add_argument("--codes", type=int, default=8, help="M of the product codebook")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--mec", action="store_true", help="also fit the MEC objective, by its defaults")
    parser.add_argument("--memory", choices=["kmeans", "mec", "faiss"], help="measure one fit's memory, nothing else")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch and faiss load their runtimes

    import faiss
    import numpy as np
    import torch

    from mec.config import MecConfig
    from mec.quantize.fit_watch import FitWatch
    from mec.quantize.kmeans import kmeans, nearest
    from mec.quantize.mec_fitting import fit_mec
    from mec.quantize.product import ProductCodebook, column_parts

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    n, d, k, m = options.points, options.dim, options.codewords, options.codes
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((4 * k, d))
    points = (centers[rng.integers(0, len(centers), n)] + rng.standard_normal((n, d))).astype(np.float32)
    tensor, ones = torch.from_numpy(points), torch.ones(n)

    def small_mec() -> None:
        few, start = tensor[: 4 * k].clone(), ProductCodebook(tensor[:k].clone(), m)
        fit_mec(few, ones[: 4 * k], start, MecConfig.model_validate({"epochs": 1}), seed=0, watch=FitWatch())

    def mec_kmeans() -> Tensor:
        return kmeans(tensor, ones, k, iterations=options.iterations, tolerance=-1.0).codewords

    def faiss_kmeans() -> Tensor:
        model = faiss.Kmeans(d, k, niter=options.iterations, max_points_per_centroid=n, seed=1)
        model.train(points)
        return torch.from_numpy(model.centroids)

    def mec_product() -> Tensor:
        parts = [
            kmeans(tensor[:, p], ones, k, iterations=options.iterations, tolerance=-1.0).codewords
            for p in column_parts(d, m)
        ]
        return torch.cat(parts, dim=1)

    def faiss_product() -> Tensor:
        model = faiss.ProductQuantizer(d, m, k.bit_length() - 1)
        model.cp.niter, model.cp.max_points_per_centroid = options.iterations, n
        model.train(points)
        centroids = faiss.vector_to_array(model.centroids).reshape(m, k, d // m)
        return torch.from_numpy(np.concatenate(list(centroids), axis=1))

    def mec_objective() -> Tensor:
        start = ProductCodebook(mec_product(), m)
        return fit_mec(tensor, ones, start, MecConfig.model_validate({}), seed=0, watch=FitWatch()).codewords

    def distortion(codewords: Tensor) -> float:
        errors = (tensor - codewords[nearest(tensor, codewords)]).square()
        total: float = errors.mean(0).sum().item()
        return total

    def product_distortion(codewords: Tensor) -> float:
        book = ProductCodebook(codewords, m)
        chunks = torch.split(tensor, 1 << 16)
        errors = [(c - book.decode(book.encode(c))).square().sum(0) for c in chunks]
        total: float = (torch.stack(errors).sum() / n).item()
        return total

    if options.memory:
        small_mec()  # loads what torch loads with its first optimizer and backward pass
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
        before = _status_kib("VmRSS")
        {"kmeans": mec_product, "mec": mec_objective, "faiss": faiss_product}[options.memory]()
        more = (_status_kib("VmHWM") - before) * 1024 / points.nbytes
        print(f"{options.memory}: peak {more:.2f} times the points beside them ({points.nbytes / 2**20:.0f} MiB)")
        return
    print(f"N={n:,} D={d} K={k} iterations={options.iterations} threads={options.threads}")
    compare("k-means", mec_kmeans, faiss_kmeans, distortion, options.repeats)
    compare(f"product M={m}", mec_product, faiss_product, product_distortion, options.repeats)
    if options.mec:
        compare(f"MEC objective M={m}", mec_objective, faiss_product, product_distortion, 1)


Fit = Callable[[], "Tensor"]


def _status_kib(what: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))


def compare(name: str, ours: Fit, theirs: Fit, measure: Callable[[Tensor], float], repeats: int) -> None:
    """Print the best times of each side, their ratios, and both distortions."""
    wall = {"mec": float("inf"), "faiss": float("inf")}
    cpu = dict(wall)
    found = {}
    for _ in range(repeats):
        for side, fit in (("mec", ours), ("faiss", theirs)):
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            found[side] = fit()
            wall[side] = min(wall[side], time.perf_counter() - wall_start)
            cpu[side] = min(cpu[side], time.process_time() - cpu_start)
    print(name)
    for what, seconds in (("wall", wall), ("cpu", cpu)):
        ratio = seconds["mec"] / seconds["faiss"]
        print(f"  {what:10}  mec {seconds['mec']:8.2f} s  faiss {seconds['faiss']:8.2f} s  ratio {ratio:.2f}")
    print(f"  distortion  mec {measure(found['mec']):8.4f}    faiss {measure(found['faiss']):8.4f}")


if __name__ == "__main__":
    main()
