"""Changed pictures: the right geometry, one change a picture, and the same generator gives the same bits."""

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.data.augment import Augment, crop, flip, rotate, shift

X = torch.rand(64, 2, 12, 10, generator=torch.Generator().manual_seed(1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spec", ["shift:2", "flip", "rotate:10", "crop:3", "shift:1,flip,rotate:30,crop:2"])
def test_repeats_bit_for_bit_and_leaves_its_input_and_the_global_state_alone(spec):
    before, state = X.clone(), torch.get_rng_state()
    augment = Augment.parse(spec)
    one, two = augment(X, generator()), augment(X, generator())
    assert one.equal(two)
    assert one.shape == X.shape
    assert not one.equal(augment(X, generator(1)))
    assert not one.equal(X)
    assert X.equal(before)
    assert torch.get_rng_state().equal(state)
    assert Augment.parse(str(augment)) == augment


def test_shift_moves_each_picture_by_whole_pixels():
    moved = shift(X, 2, generator())
    padded = torch.nn.functional.pad(X, (2, 2, 2, 2), mode="replicate")
    seen = set()
    for i in range(len(X)):
        where = [(a, b) for a in range(5) for b in range(5) if moved[i].equal(padded[i, :, a : a + 12, b : b + 10])]
        assert len(where) == 1
        seen.add(where[0])
    assert len(seen) > 15


def test_flip_mirrors_about_the_given_share():
    mirrored = flip(X.repeat(20, 1, 1, 1), 0.25, generator())
    whole = X.repeat(20, 1, 1, 1)
    turned = (mirrored == whole.flip(-1)).all(dim=(1, 2, 3))
    assert ((mirrored == whole).all(dim=(1, 2, 3)) ^ turned).all()
    assert turned.float().mean() == pytest.approx(0.25, abs=0.04)


def test_rotate_turns_a_point_by_at_most_the_angle_and_keeps_its_radius():
    x = torch.zeros(200, 1, 41, 21)
    x[:, 0, 20, 18] = 1.0  # 8 pixels to the right of the middle
    turned = rotate(x, 60, generator())
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(21.0), indexing="ij")
    mass = turned.sum(dim=(1, 2, 3))
    dy = (turned[:, 0] * rows).sum(dim=(1, 2)) / mass - 20
    dx = (turned[:, 0] * columns).sum(dim=(1, 2)) / mass - 10
    assert torch.allclose(torch.hypot(dx, dy), torch.full((200,), 8.0), atol=0.35)
    angle = torch.rad2deg(torch.atan2(dy, dx))
    assert angle.abs().max() < 62
    assert angle.min() < -40
    assert angle.max() > 40


def test_crop_stretches_a_window_from_inside():
    ramp = torch.arange(20.0).view(1, 1, 1, 20).expand(100, 1, 20, 20).contiguous()
    cut = crop(ramp, 6, generator())
    slope = (cut[:, 0, :, 15] - cut[:, 0, :, 5]).mean(1) / 10
    assert slope.max() <= 1 + 1e-5
    assert slope.min() >= 14 / 20 - 1e-5
    assert slope.min() < 0.8
    assert cut.min() >= 0
    assert cut.max() <= 19


@pytest.mark.parametrize("spec", ["", "shfit:2", "shift:0", "shift:0.5", "flip:2", "rotate:x", "crop:-1"])
def test_broken_specs_are_refused(spec):
    with pytest.raises(FalllineError):
        Augment.parse(spec)


def test_tables_and_too_large_crops_are_refused():
    with pytest.raises(FalllineError, match="needs pictures"):
        Augment.parse("flip")(torch.zeros(4, 3), generator())
    with pytest.raises(FalllineError, match="crop < 10"):
        Augment.parse("crop:10")(X, generator())
