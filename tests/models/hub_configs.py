"""config.json of the open models as their makers publish them, by the sizes of each."""

from typing import Any

SIZES = """
Qwen2.5-0.5B   qwen2   896  4864 24 14  2  64 151936 tied    494032768
Qwen2.5-1.5B   qwen2  1536  8960 28 12  2 128 151936 tied   1543714304
Qwen2.5-3B     qwen2  2048 11008 36 16  2 128 151936 tied   3085938688
Qwen2.5-7B     qwen2  3584 18944 28 28  4 128 152064 -      7615616512
Qwen2.5-14B    qwen2  5120 13824 48 40  8 128 152064 -     14770033664
Qwen2.5-32B    qwen2  5120 27648 64 40  8 128 152064 -     32763876352
Qwen2.5-72B    qwen2  8192 29568 80 64  8 128 152064 -     72706203648
Llama-3.2-1B   llama  2048  8192 16 32  8  64 128256 tied   1235814400
Llama-3.2-3B   llama  3072  8192 28 24  8 128 128256 tied   3212749824
SmolLM2-135M   llama   576  1536 30  9  3  64  49152 tied    134515008
SmolLM2-360M   llama   960  2560 32 15  5  64  49152 tied    361821120
SmolLM2-1.7B   llama  2048  8192 24 32 32  64  49152 tied   1711376384
Qwen3-0.6B     qwen3  1024  3072 28 16  8 128 151936 tied    596049920
Qwen3-1.7B     qwen3  2048  6144 28 16  8 128 151936 tied   1720574976
Qwen3-4B       qwen3  2560  9728 36 32  8 128 151936 tied   4022468096
Qwen3-8B       qwen3  4096 12288 36 32  8 128 151936 -      8190735360
Qwen3-14B      qwen3  5120 17408 40 40  8 128 151936 -     14768307200
Qwen3-32B      qwen3  5120 25600 64 64  8 128 151936 -     32762123264
"""
"""Name, model_type, hidden, MLP, layers, heads, key heads, head_dim, vocabulary, tied or not; parameters."""
ROWS = [line.split() for line in SIZES.strip().splitlines()]
PARAMETERS = {row[0]: int(row[-1]) for row in ROWS}

LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "Llama": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {**LLAMA3, "rope_type": "llama3"},
        "rope_theta": 500000.0,
    },
    "SmolLM2": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
    },
}


def published(name: str) -> dict[str, Any]:
    """The config.json of a model by its name on the hub."""
    row = next(row for row in ROWS if row[0] == name)
    _, family, hidden, mlp, layers, heads, kv_heads, head_dim, vocab, tied, _ = row
    return {
        "model_type": family,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": int(hidden),
        "initializer_range": 0.02,
        "intermediate_size": int(mlp),
        "num_attention_heads": int(heads),
        "num_hidden_layers": int(layers),
        "num_key_value_heads": int(kv_heads),
        "tie_word_embeddings": tied == "tied",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "vocab_size": int(vocab),
        **({"head_dim": int(head_dim)} if family == "qwen3" or name.startswith("Llama") else {}),
        **OF_FAMILY[name.partition("-")[0] if family == "llama" else family],
    }


def as_version_5(config: dict[str, Any]) -> dict[str, Any]:
    """The same in the spelling of transformers 5."""
    new = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}
    scaling = config.get("rope_scaling") or {"rope_type": "default"}
    return {**new, "dtype": config["torch_dtype"], "rope_parameters": {**scaling, "rope_theta": config["rope_theta"]}}


def shrunk(name: str, layers: int, heads: int, kv_heads: int, vocab: int = 512) -> dict[str, Any]:
    """Few layers and heads, with the model's own head size, and its ratios of hidden and MLP width to the heads."""
    config = published(name)
    share = heads / config["num_attention_heads"]
    smaller = {key: round(config[key] * share / 32) * 32 for key in ("hidden_size", "intermediate_size")}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    counts = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return {**config, **smaller, **counts, "head_dim": head_dim, "vocab_size": vocab}
