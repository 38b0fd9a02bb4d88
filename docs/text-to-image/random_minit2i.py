"""Writes a model of the size of MiniT2I-B/16 whose weights are random, in 16 bits, with the encoder of FLAN-T5-large.

    python3 docs/text-to-image/random_minit2i.py OUT

It draws noise, but takes the memory and the time of the published model: for measurements without a download. Needs the
packages numpy and safetensors, 2 GB of memory, and 1.2 GB on disk. The tokenizer comes from the tests' tiny model.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy
from safetensors.numpy import save_file

TINY = Path(__file__).parents[2] / "tests" / "formats" / "minit2i_tiny"

out = Path(sys.argv[1])
random = numpy.random.default_rng(0)


def config(part, **changes):
    keys = json.loads((TINY / part / "config.json").read_text())
    keys.update(changes)
    (out / part).mkdir(parents=True)
    (out / part / "config.json").write_text(json.dumps(keys, indent=1))


def matrix(outputs, *inputs):
    """With a standard deviation of 1 / sqrt(inputs), which keeps the size of activations."""
    values = random.standard_normal((outputs, *inputs), dtype=numpy.float32)
    return (values / numpy.sqrt(numpy.prod(inputs))).astype(numpy.float16)


def ones(size):
    return numpy.ones(size, numpy.float16)


def zeros(size):
    return numpy.zeros(size, numpy.float16)


width, head, heads, text, blocks, preamble = 768, 64, 12, 1024, 17, 2
hidden = 2048
config(
    "transformer",
    image_size=512,
    patch_size=16,
    txt_input_size=text,
    hidden_size=width,
    txt_hidden_size=width,
    cond_vec_size=width,
    depth_double=blocks,
    txt_preamble_depth=preamble,
    num_heads=heads,
    head_dim=head,
    pca_channels=128,
    prompt_length=256,
)
tensors = {
    "img_embedder.proj1.weight": matrix(128, 3, 16, 16),
    "img_embedder.proj2.weight": matrix(width, 128, 1, 1),
    "img_embedder.proj2.bias": zeros(width),
    "txt_embedder.weight": matrix(width, text),
    "mask_token": matrix(1, 1, text),
    "t_embedder.mlp.0.weight": matrix(width, 256),
    "t_embedder.mlp.0.bias": zeros(width),
    "t_embedder.mlp.2.weight": matrix(width, width),
    "t_embedder.mlp.2.bias": zeros(width),
    "pooled_embedder.weight": matrix(width, text),
    "final_layer.norm_final.weight": ones(width),
    "final_layer.linear.weight": matrix(16 * 16 * 3, width),
    "final_layer.linear.bias": zeros(16 * 16 * 3),
}


def stream(name):
    tensors[f"{name}norm1.weight"] = ones(width)
    tensors[f"{name}norm2.weight"] = ones(width)
    tensors[f"{name}qkv.weight"] = matrix(3 * width, width)
    tensors[f"{name}qkv.bias"] = zeros(3 * width)
    tensors[f"{name}attn_proj.weight"] = matrix(width, width)
    tensors[f"{name}attn_proj.bias"] = zeros(width)
    tensors[f"{name}mlp.w1.weight"] = matrix(hidden, width)
    tensors[f"{name}mlp.w2.weight"] = matrix(width, hidden)
    tensors[f"{name}mlp.w3.weight"] = matrix(hidden, width)


names = [f"txt_preamble_blocks.{block}." for block in range(preamble)]
names += [f"double_blocks.{block}." for block in range(blocks)]
for name in names:
    for norm in ("q_norm", "k_norm"):
        tensors[f"{name}{norm}.weight"] = ones(head)
    for part in ("img_", "txt_") if name.startswith("double") else ("",):
        stream(name + part)
count = sum(tensor.size for tensor in tensors.values())
assert count == 258_122_880, count
path = out / "transformer" / "diffusion_pytorch_model.safetensors"
save_file({f"model.net.{name}": tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

layers, inner = 24, 2816
config("text_encoder", vocab_size=32128, d_model=text, d_ff=inner, d_kv=64, num_heads=16, num_layers=layers)
tensors = {"shared.weight": matrix(32128, text), "encoder.final_layer_norm.weight": ones(text)}
for layer in range(layers):
    name = f"encoder.block.{layer}.layer."
    for part in "qkvo":
        tensors[f"{name}0.SelfAttention.{part}.weight"] = matrix(1024, text)
    tensors[f"{name}0.layer_norm.weight"] = ones(text)
    tensors[f"{name}1.DenseReluDense.wi_0.weight"] = matrix(inner, text)
    tensors[f"{name}1.DenseReluDense.wi_1.weight"] = matrix(inner, text)
    tensors[f"{name}1.DenseReluDense.wo.weight"] = matrix(text, inner)
    tensors[f"{name}1.layer_norm.weight"] = ones(text)
tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = matrix(32, 16)
save_file(tensors, out / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
shutil.copytree(TINY / "tokenizer", out / "tokenizer")
