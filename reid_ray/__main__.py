"""`python -m reid_ray`, the same as `reid-ray`; what `torchrun -m reid_ray` starts."""

from reid_ray.cli import main

main()
