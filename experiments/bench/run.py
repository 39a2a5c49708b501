"""`make bench`: how long things take, as ratios to what they could not go below, measured in one run."""

from experiments.bench.heads import bench_heads
from experiments.bench.pipeline import bench_pipeline

if __name__ == "__main__":
    bench_pipeline()
    bench_heads()
