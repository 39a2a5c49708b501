"""`make bench`: how long things take, as ratios to what they could not go below, measured in one run."""

from experiments.bench.constraints import bench_constraints
from experiments.bench.evaluation import bench_evaluation
from experiments.bench.heads import bench_heads
from experiments.bench.pages import bench_pages
from experiments.bench.pipeline import bench_pipeline
from experiments.bench.replicas import bench_replicas
from experiments.bench.steps import bench_steps

if __name__ == "__main__":
    bench_evaluation()  # first: what memory others need would hide its own
    bench_replicas()
    bench_steps()
    bench_pages()
    bench_pipeline()
    bench_constraints()
    bench_heads()
