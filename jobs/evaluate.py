"""Evaluate a run's model: `python jobs/evaluate.py RUN …`, as `reid-ray evaluate`."""

from reid_ray.jobs.entry import run

if __name__ == "__main__":
    run("evaluate")
