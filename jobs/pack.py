"""Pack crops into shards: `python jobs/pack.py SOURCE OUT …`, as `reid-ray data pack`."""

from reid_ray.jobs.entry import run

if __name__ == "__main__":
    run("pack")
