"""Cluster features into labels, or run a sweep: `python jobs/label.py FEATURES --out FILE …`, as `reid-ray label`."""

from reid_ray.jobs.entry import run

if __name__ == "__main__":
    run("label")
