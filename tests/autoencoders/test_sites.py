import pytest

from geoprobe.autoencoders.sites import hook_of, site_of


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("blocks.3.hook_resid_post", "block.3"),
        ("blocks.3.hook_resid_pre", "block.2"),
        ("blocks.0.hook_resid_pre", "embed"),
        ("blocks.12.hook_mlp_out", "mlp.out.12"),
        ("blocks.3.hook_attn_out", "attention.3"),
        ("blocks.3.mlp.hook_post", "neurons.3"),
        ("blocks.3.ln2.hook_normalized", "mlp.in.3"),
        ("ln_final.hook_normalized", "final"),
        ("model.layers.3", "block.3"),
        ("transformer.h.3", "block.3"),
        ("gpt_neox.layers.3", "block.3"),
        ("layers.3", "block.3"),
        ("h.3", "block.3"),
        ("model.layers.3.mlp", "mlp.out.3"),
        ("gpt_neox.layers.3.attention", "attention.3"),
        ("model.layers.3.self_attn", "attention.3"),
        ("model.norm", "final"),
        ("embed_tokens", "embed"),
        ("resid_post_layer_3", "block.3"),
        ("mlp_out_layer_3", "mlp.out.3"),
        ("attention_out_layer_3", "attention.3"),
        ("attn_out_layer3", "attention.3"),
        ("resid_post", None),
        ("blocks.3.hook_resid_mid", None),
        ("blocks.3.attn.hook_z", None),
        ("blocks.x.hook_resid_post", None),
        ("blocks.٣.hook_resid_post", None),
        (f"blocks.{'9' * 5000}.hook_resid_post", None),
        ("blocks_3_hook_resid_post", None),
        ("vision_tower.layers.3", None),
        ("layers.3\n", None),
        ("", None),
    ],
)
def test_names_of_other_packages_stand_for_sites(name, site):
    assert site_of(name) == site


def test_a_name_without_a_number_takes_the_layer():
    assert site_of("resid_post", layer=5) == "block.5"
    assert site_of("resid_post_layer_3", layer=5) == "block.3"


def test_outputs_behind_norms_are_told_apart_by_the_model():
    assert site_of("blocks.3.hook_mlp_out", "gemma-2-2b") == "mlp.add.3"
    assert site_of("blocks.3.hook_attn_out", "google/gemma-3-1b-pt") is None
    assert site_of("blocks.3.hook_resid_post", "gemma-2-2b") == "block.3"
    assert hook_of("mlp.out.3", "gemma-2-2b") is None
    assert hook_of("mlp.add.3", "gemma-2-2b") == "blocks.3.hook_mlp_out"
    assert hook_of("mlp.add.3") is None


@pytest.mark.parametrize(
    "site", ["embed", "block.0", "block.11", "attention.3", "mlp.out.3", "mlp.in.3", "neurons.3"]
)
def test_hooks_of_sites_are_read_back(site):
    hook = hook_of(site)
    assert hook is not None
    assert site_of(hook) == site


def test_sites_that_transformerlens_does_not_have():
    for site in ("mlp.gate.3", "logits", "features.0.conv", ""):
        assert hook_of(site) is None
