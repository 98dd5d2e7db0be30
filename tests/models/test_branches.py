"""The maps inside a network are found by name, and are those that it computes."""

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.equalizer.sites import find_sites
from se_jax.models.branches import branch_maps, branch_names
from se_jax.models.segmenter import normalize
from tests import tiny


def test_every_level_branch_and_the_logits_are_found():
    model = tiny.network("uper", "explicit")
    variables = tiny.init(model)
    names = branch_names(model, variables, (65, 65))
    assert names[:4] == [f"encoder/{level}" for level in range(4)] and names[-1] == "logits"
    found = [site.name for site in find_sites(model, jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32))]
    assert list(dict.fromkeys(name.partition("/")[0] for name in names[4:-1])) == found
    assert names[4:9] == ["ppm/input", *(f"ppm/pool{scale}" for scale in (1, 2, 3, 6))]

    images = normalize(jnp.asarray(tiny.images()))
    found = jax.jit(lambda v, x: branch_maps(model, v, x))(variables, images)
    assert found["ppm/pool2"].shape == (2, 2, 2, 8)  # before it is resized
    np.testing.assert_array_equal(found["ppm/input"], found["encoder/3"])
    np.testing.assert_allclose(found["logits"], jax.jit(model.apply)(variables, images)["logits"], atol=1e-5)
