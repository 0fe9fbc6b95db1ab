"""The methods that hide patches, and the vision transformer that takes only some of them."""

import pytest
import torch
import torch.nn.functional as F
from normal_numbers import normal
from torch import nn

from simlab.methods import parse_method
from simlab.methods.base import Views, random_masks
from simlab.methods.ijepa import draw_blocks
from simlab.methods.pixels import patchify, pixel_mask
from simlab.models import TinyViT


@pytest.mark.long
def test_ijepa_without_a_slow_teacher_predicts_constants_sooner():
    """With momentum 0 the target moves as fast as its student, and the loss goes to 0."""

    def final(momentum):
        torch.manual_seed(0)
        vit = TinyViT(1, patch=4, width=24, depth=1, heads=3)
        text = f"ijepa targets=2 predictor_width=12 predictor_depth=1 momentum={momentum}"
        module = parse_method(text).build(vit, 24)
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.003)
        generator = torch.Generator().manual_seed(1)
        images = F.interpolate(normal(32, 1, 4, 4, seed=6).float(), scale_factor=5)
        for step in range(150):
            loss = module.loss(Views([images]), generator, step / 150)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                module.after_step((step + 1) / 150)
        return loss.item()

    assert final(0) < 0.5 * final(1)


def test_every_patch_is_a_target_and_a_context_patch_about_as_often():
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(36)
    context = torch.zeros(36)
    for _ in range(40):
        blocks, context_index = draw_blocks(50, 6, 4, generator)
        assert {len(block) for block in blocks} == {len(context_index)} == {50}
        for block in blocks:
            target += torch.bincount(block.flatten(), minlength=36)
            shared = (block[:, :, None] == context_index[:, None, :]).any()
            assert not shared, "a target is never seen"
        context += torch.bincount(context_index.flatten(), minlength=36)
    corners = [0, 5, 30, 35]
    assert target.min() > 0 and context.min() > 0.2 * context.mean()
    edges = target[corners]
    assert edges.max() < 1.25 * edges.min(), "last row and column as often as the first"


def test_blocks_are_drawn_again_where_targets_cover_all_of_an_image():
    """Four of 3 x 3 can cover 6 x 6 patches, which are those of the default images."""
    generator = torch.Generator().manual_seed(5)  # at the eighth step
    for _ in range(12):
        _, context_index = draw_blocks(64, 6, 4, generator)
        assert context_index.shape[1] >= 1


def test_targets_that_leave_no_context_are_refused():
    with pytest.raises(ValueError, match="leave no context of 2 x 2: expected fewer targets"):
        for seed in range(20):
            draw_blocks(20, 2, 6, torch.Generator().manual_seed(seed))


def test_a_masked_autoencoders_encoder_never_sees_a_hidden_patch():
    module = parse_method("mae channels=1 decoder_width=12").build(TinyViT(1, width=24), 24)
    masks = random_masks(3, 4, 0.75, torch.Generator().manual_seed(0))
    x = normal(3, 1, 16, 16).float()
    changed = torch.where(pixel_mask(masks, 4), 100.0, x)
    torch.testing.assert_close(module.reconstruct(x, masks), module.reconstruct(changed, masks))
    repainted = torch.where(pixel_mask(masks, 4), x, 100.0)
    assert not torch.allclose(module.reconstruct(x, masks), module.reconstruct(repainted, masks))


def test_the_decoder_puts_each_patch_where_it_belongs():
    """With attention off, a shown patch's prediction depends on that patch alone."""
    module = parse_method("mae channels=1 decoder_width=12").build(TinyViT(1, width=24), 24)
    for block in [*module.encoder.blocks, *module.decoder[:-1]]:
        nn.init.zeros_(block.attention.out.weight)
    masks = random_masks(1, 4, 0.5, torch.Generator().manual_seed(1))
    x = normal(1, 1, 16, 16).float()
    position = int((~masks.flatten()).nonzero()[0])
    row, column = divmod(position, 4)
    changed = x.clone()
    changed[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    difference = (module.reconstruct(changed, masks) - module.reconstruct(x, masks)).abs().sum(2)
    assert (difference[0] > 1e-6).nonzero().flatten().tolist() == [position]


def test_a_rebuilt_image_is_the_true_one_where_it_was_visible_and_a_prediction_elsewhere():
    x = normal(2, 1, 16, 16).float()
    masks = random_masks(2, 4, 0.75, torch.Generator().manual_seed(0))
    hidden = pixel_mask(masks, 4)
    for norm_pix in (True, False):
        text = f"mae channels=1 decoder_width=12 norm_pix={str(norm_pix).lower()}"
        torch.manual_seed(0)
        module = parse_method(text).build(TinyViT(1, width=24), 24)
        rebuilt = module.rebuild(x, masks)
        torch.testing.assert_close(rebuilt.masked_fill(hidden, 0), x.masked_fill(hidden, 0))
        predictions = module.reconstruct(x, masks)[masks.flatten(1)]  # [hidden patches, P]
        rebuilt_patches = patchify(rebuilt, 4)[masks.flatten(1)]
        true = patchify(x, 4)[masks.flatten(1)]
        if norm_pix:  # the true mean and std, which the network has not seen
            predictions = predictions * true.std(1, keepdim=True) + true.mean(1, keepdim=True)
        torch.testing.assert_close(rebuilt_patches, predictions)


def test_attention_maps_are_where_the_last_blocks_tokens_look():
    torch.manual_seed(0)
    vit = TinyViT(1, width=24, depth=2, heads=3).eval()
    x = normal(2, 1, 16, 24).float()
    maps = vit.attention_maps(x)
    assert maps.shape == (2, 3, 4, 6)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3))
    seen = []
    last = vit.blocks[-1].attention
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    vit(x)
    hook.remove()
    torch.testing.assert_close(maps.flatten(2), last.weights(seen[0]).mean(2))


@pytest.mark.parametrize("name", ["mae", "ijepa"])
def test_a_method_of_tokens_refuses_an_encoder_without(name):
    with pytest.raises(ValueError, match=f"{name} needs an encoder of tokens.*not Flatten"):
        parse_method(name).build(nn.Flatten(), 12)


def test_a_vision_transformer_drops_tokens_and_takes_views_of_any_size():
    vit = TinyViT(3).eval()
    x = normal(2, 3, 24, 24).float()
    assert vit(x).shape == (2, vit.feature_dim) and vit(x[..., :16, :16]).shape == (2, 96)
    everything = torch.arange(36).expand(2, -1)
    torch.testing.assert_close(vit.tokens(x, everything), vit.tokens(x))
    assert vit.tokens(x, everything[:, ::4]).shape == (2, 9, 96)
    weights = vit.blocks[0].attention.weights(vit.embedding(x).flatten(2).mT)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 36))
