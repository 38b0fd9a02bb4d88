"""Writes a pipeline of the size of Stable Diffusion 3.5 Medium whose weights are random, in 16 bits.

    python3 docs/text-to-image/random_pipeline.py OUT

It draws noise, but its transformer and decoder take the memory and the time of the published ones: for measurements
without a download. Needs the packages torch, diffusers and transformers, 12 GB of memory, and 7 GB on disk. Tokenizers
come from the tests' tiny pipeline; T5 has 2 of its 24 layers, each of the published size.
"""

import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

TINY = Path(__file__).parents[2] / "tests" / "formats" / "sd35_tiny_pipeline"

out = Path(sys.argv[1])
out.mkdir(parents=True)
for part in ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"):
    shutil.copytree(TINY / part, out / part)
shutil.copy(TINY / "model_index.json", out)
torch.manual_seed(0)
torch.set_default_dtype(torch.float16)


def clip(folder, width, layers, activation):
    config = CLIPTextConfig.from_pretrained(TINY / folder)
    config.update(
        dict(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=width // 64,
            num_hidden_layers=layers,
            projection_dim=width,
            hidden_act=activation,
        )
    )
    CLIPTextModelWithProjection(config).half().save_pretrained(out / folder)


clip("text_encoder", 768, 12, "quick_gelu")
clip("text_encoder_2", 1280, 32, "gelu")
config = T5Config.from_pretrained(TINY / "text_encoder_3")
config.update(dict(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=2))
T5EncoderModel(config).half().save_pretrained(out / "text_encoder_3")
AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=16,
    scaling_factor=1.5305,
    shift_factor=0.0609,
    use_quant_conv=False,
    use_post_quant_conv=False,
).save_pretrained(out / "vae")
SD3Transformer2DModel(
    sample_size=128,
    in_channels=16,
    out_channels=16,
    num_layers=24,
    num_attention_heads=24,
    attention_head_dim=64,
    caption_projection_dim=1536,
    joint_attention_dim=4096,
    pooled_projection_dim=2048,
    pos_embed_max_size=384,
    dual_attention_layers=tuple(range(13)),
    qk_norm="rms_norm",
).save_pretrained(out / "transformer")
