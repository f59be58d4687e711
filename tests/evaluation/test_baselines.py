import colorsys

import pytest
import torch

from reid_ray.evaluation import baselines, colour_histogram


def slow_histogram(image: torch.Tensor, n_stripes: int, bins: int) -> torch.Tensor:
    """One image, pixel by pixel, with the standard library's HSV."""
    _, height, width = image.shape
    counts = torch.zeros(n_stripes, bins, bins, bins, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            hsv = colorsys.rgb_to_hsv(*(int(channel) / 255 for channel in image[:, y, x]))
            h, s, v = (min(int(part * bins), bins - 1) for part in hsv)
            counts[y * n_stripes // height, h, s, v] += 1
    return (counts / counts.sum(dim=(1, 2, 3), keepdim=True)).sqrt().flatten() / n_stripes**0.5


@pytest.mark.parametrize(("n_stripes", "bins", "height"), [(6, 8, 13), (1, 4, 5), (5, 3, 5), (4, 1, 9)])
def test_equals_the_histogram_pixel_by_pixel(n_stripes, bins, height, monkeypatch):
    monkeypatch.setattr(baselines, "PIXELS_AT_A_TIME", 100)  # several chunks
    generator = torch.Generator().manual_seed(height)
    images = torch.randint(0, 256, (7, 3, height, 6), dtype=torch.uint8, generator=generator)
    images[1] = 0
    images[2] = 255
    images[3] = images[3, :1]  # greys
    descriptors = colour_histogram(images, n_stripes, bins)
    assert descriptors.dtype == torch.float32
    assert descriptors.shape == (7, n_stripes * bins**3)
    expected = torch.stack([slow_histogram(image, n_stripes, bins) for image in images])
    # A hue on the border of two bins may round to either side: at most a pixel or two of an image.
    assert ((descriptors - expected).abs() > 1e-6).sum(dim=1).max() <= 4
    torch.testing.assert_close(descriptors[1:4], expected[1:4].float())


def test_unit_length_and_bhattacharyya():
    red, blue = torch.zeros(2, 3, 12, 4, dtype=torch.uint8).unbind()
    red[0], blue[2] = 200, 200
    half = red.clone()
    half[:, 6:] = blue[:, 6:]
    similarity_mat = (lambda d: d @ d.T)(colour_histogram(torch.stack([red, blue, half])))
    torch.testing.assert_close(similarity_mat, torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1.0]]))


def test_no_images():
    assert colour_histogram(torch.zeros(0, 3, 12, 4, dtype=torch.uint8)).shape == (0, 3072)


@pytest.mark.parametrize(
    ("images", "n_stripes"),
    [
        (torch.zeros(2, 3, 8, 8), 6),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), 6),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 6),
        (torch.zeros(2, 3, 5, 8, dtype=torch.uint8), 6),
        (torch.zeros(2, 3, 8, 0, dtype=torch.uint8), 6),
    ],
)
def test_other_images_are_refused(images, n_stripes):
    with pytest.raises(ValueError, match="images"):
        colour_histogram(images, n_stripes)
