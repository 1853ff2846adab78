"""A checkpoint directory in the released layout, with the released key names and structure but small random weights."""

import json

import torch
from safetensors.torch import save_file

from liveact_model.config import DiTConfig
from liveact_model.image.clip import CLIPShape
from liveact_model.loading.keymap import targets
from liveact_model.text.umt5 import UMT5Shape
from liveact_model.vae.wan import WanVAE
from liveact_model.vae.wan_coder import WanVAEConfig

CONFIG = DiTConfig(
    dim=48, num_heads=3, num_layers=2, ffn_dim=64, freq_dim=32, text_dim=32, clip_dim=32, audio_blocks=3,
    audio_channels=32, audio_hidden=16, audio_tokens=4, audio_dim=24,
)  # fmt: skip
TEXT = UMT5Shape(vocab=40, dim=32, dim_attn=32, dim_ffn=48, heads=4, layers=2)
IMAGE = CLIPShape(dim=32, mlp=48, head_dim=8, layers=3, patch=14, tokens=257)
VAE = WanVAEConfig(dim=4)
WORDS = ("a", "person", "is", "talking", "happy", "the", "man", "nods", "waves")
STEM, AUDIO = "diffusion_pytorch_model", "chinese-wav2vec2-base"


def drawn(shapes, seed, dtype=torch.float32):
    """Values of ordinary size: matrices keep a row's norm, norm weights are about 1, other vectors small."""
    g, out = torch.Generator().manual_seed(seed), {}
    for key, shape in shapes.items():
        scale = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 0.1
        value = torch.randn(*shape, generator=g) * scale
        if key.endswith("gamma") or ("norm" in key and key.endswith("weight")):
            value = 1 + 0.1 * torch.randn(*shape, generator=g)
        out[key] = value.to(dtype)
    return out


def dit_shapes(c=CONFIG):
    """Every key of the denoiser, those that nothing reads included."""
    shapes = {key: shape for target in targets(c) for key, shape in zip(target.keys, target.shapes)}
    for i in range(c.num_layers):
        shapes[f"blocks.{i}.self_attn.memory_proj_v.weight"] = (c.dim, 1, 5)
    shapes["audio_proj.proj1.weight"] = (c.audio_hidden, 5 * c.audio_blocks * c.audio_channels)
    shapes["audio_proj.proj1.bias"] = (c.audio_hidden,)
    return shapes


def write_dit(folder, c=CONFIG, shards=3):
    """config.json, `shards` bf16 safetensors and their index."""
    config = {
        "_class_name": "WanModel", "_diffusers_version": "0.33.1", "model_type": "i2v", "dim": c.dim,
        "ffn_dim": c.ffn_dim, "num_heads": c.num_heads, "num_layers": c.num_layers, "in_dim": c.in_dim,
        "out_dim": c.out_dim, "freq_dim": c.freq_dim, "text_len": c.text_len, "eps": 1e-6, "audio_window": 5,
        "intermediate_dim": c.audio_hidden, "context_tokens": c.audio_tokens, "output_dim": c.audio_dim,
        "vae_scale": 4, "norm_input_visual": True, "norm_output_audio": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    state = drawn(dit_shapes(c), 0, torch.bfloat16)
    keys, names = list(state), [f"{STEM}-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    index = {key: names[i * shards // len(keys)] for i, key in enumerate(keys)}
    for name in names:
        save_file({k: state[k] for k in keys if index[k] == name}, folder / name, metadata={"format": "pt"})
    meta = {"total_size": sum(t.nbytes for t in state.values())}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"metadata": meta, "weight_map": index}))
    return state


def write_clip(folder, shape=IMAGE):
    """The two towers of the file; only `visual.*` is read."""
    state = {f"visual.{k}": v for k, v in drawn(shape.released_keys(), 1).items()}
    other = {"textual.model.embeddings.word_embeddings.weight": torch.zeros(9, 8), "log_scale": torch.zeros(())}
    torch.save(state | other, folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    (folder / "xlm-roberta-large").mkdir(exist_ok=True)


def write_t5(folder, shape=TEXT):
    """The text encoder in bf16."""
    torch.save(drawn(shape.released_keys(), 2, torch.bfloat16), folder / "models_t5_umt5-xxl-enc-bf16.pth")


def write_tokenizer(folder):
    """A SentencePiece-like tokenizer: known words are one piece, other letters are unknown, "</s>" ends the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in WORDS), ("▁", -9.0)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder / "google/umt5-xxl")


def write_vae(folder, config=VAE):
    """The VAE under its released names."""
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in WanVAE(config).state_dict().items()}
    torch.save(drawn(shapes, 3), folder / "Wan2.1_VAE.pth")


def write_wav2vec2(folder, c=CONFIG):
    """The Hugging Face folder of the audio encoder, with the older names of its weight norm, as released."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=c.audio_channels, num_hidden_layers=c.audio_blocks, num_attention_heads=4, intermediate_size=48,
        conv_dim=(16,) * 7,
    )  # fmt: skip
    torch.manual_seed(4)
    state = Wav2Vec2Model(config).state_dict()
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    out = folder / AUDIO
    out.mkdir()
    config.save_pretrained(out)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(out)
    torch.save(state, out / "pytorch_model.bin")


def write_released(folder):
    """The whole directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for write in (write_dit, write_clip, write_t5, write_tokenizer, write_vae, write_wav2vec2):
        write(folder)
    return folder


def picture(height=32, width=48):
    """[3, height, width] in [-1, 1]."""
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


def relative(got, want):
    """Relative L2 distance of two tensors of one shape."""
    assert got.shape == want.shape
    return float((got - want).norm() / want.norm())
