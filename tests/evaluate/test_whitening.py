"""What whitening promises: variance 1, no correlation, and nothing that a linear layer could change."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from simlab.augment import Normalize
from simlab.data import Images
from simlab.evaluate import MirrorAveraged, Whitened, features, whitening_of

FEATURES = 6


def some_images(n=200, normalize=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    normalize = normalize or Normalize(torch.full((3,), 0.5), torch.full((3,), 0.3))
    return Images(images, torch.full((n,), -1), (), normalize=normalize)


def some_encoder():
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, FEATURES, 3, stride=2),
            nn.BatchNorm2d(FEATURES),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


@pytest.mark.parametrize("around", [nn.Sequential, MirrorAveraged])
def test_on_its_images_the_features_are_centred_and_have_the_covariance_one(around):
    f = features(Whitened(around(some_encoder()), some_images()), some_images())
    assert f.mean(0).abs().max() < 1e-4
    assert torch.allclose(torch.cov(f.T), torch.eye(FEATURES), atol=1e-3)


def test_a_linear_layer_after_the_encoder_changes_no_cosine():
    encoder, linear = some_encoder().eval(), nn.Linear(FEATURES, FEATURES)
    plain = [
        F.normalize(features(m, some_images())) for m in (encoder, nn.Sequential(encoder, linear))
    ]
    white = [
        F.normalize(features(Whitened(m, some_images()), some_images()))
        for m in (encoder, nn.Sequential(encoder, linear))
    ]
    assert torch.allclose(white[0] @ white[0].T, white[1] @ white[1].T, atol=1e-3)
    assert not torch.allclose(plain[0] @ plain[0].T, plain[1] @ plain[1].T, atol=1e-1)


def test_averaged_an_image_and_its_mirror_image_have_the_same_features():
    x = torch.randn(4, 3, 8, 8)
    averaged = Whitened(MirrorAveraged(some_encoder()), some_images())
    assert torch.allclose(averaged(x), averaged(x.flip(3)), atol=1e-4)
    plain = Whitened(some_encoder(), some_images())
    assert not torch.allclose(plain(x), plain(x.flip(3)), atol=1e-2)


def test_features_alone_are_whitened_as_by_the_layer():
    encoder = some_encoder()
    f = features(encoder, some_images())
    mean, matrix = whitening_of(f)
    by_layer = features(Whitened(encoder, some_images()), some_images())
    assert torch.allclose((f - mean) @ matrix, by_layer, atol=1e-3)


def test_the_encoder_keeps_its_weights_and_a_stored_model_gives_the_same_features(tmp_path):
    encoder = some_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = Whitened(encoder, some_images())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = Whitened(some_encoder(), some_images(50))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model(x), other(x))


def test_a_feature_that_never_varies_stays_finite():
    class Dead(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), x[:, 0, 0, 0], torch.zeros(len(x))], 1)

    f = features(Whitened(Dead(), some_images()), some_images())
    assert f.isfinite().all() and f.abs().max() < 100


def test_features_that_are_no_numbers_are_refused():
    encoder = some_encoder()
    with torch.no_grad():
        encoder[0].bias[2] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        Whitened(encoder, some_images())


def test_as_many_images_as_features_are_refused():
    with pytest.raises(ValueError, match="6 images: whitening 6 features"):
        Whitened(some_encoder(), some_images(FEATURES))
