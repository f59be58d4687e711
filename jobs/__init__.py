"""Entry points for clusters: `python -m reid_ray.jobs.train RECIPE KEY=VALUE…`, on the head node or as a job.

Each runs a `reid-ray` command with the same arguments on the cluster that the machine belongs to; see `entry.py`.
"""
