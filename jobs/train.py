"""Train, or resume a run: `python jobs/train.py RECIPE KEY=VALUE…`, as `reid-ray train`."""

from reid_ray.jobs.entry import run

if __name__ == "__main__":
    run("train")
