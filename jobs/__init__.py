"""Entry points for clusters: `python -m reid_ray.jobs.train RECIPE KEY=VALUE…`, on the head or as a job.

Each is a `reid-ray` command, with the same arguments, on the cluster that the machine belongs to; `entry.py` says what
differs.
"""
