"""nanochat as it was before value embeddings."""

from lanbot.models.families.base import Family

FAMILY = Family(
    "nanochat",
    "NanoChatForCausalLM",
    "nanochat until January 2026",
    qk_norm="after",
    norm_weights=False,
    norm_embedding=True,
    activation="relu2",
    reverse_rotary=True,
    softcap=15.0,
    names={"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"},
    fixed={"attention_bias": False, "hidden_act": "relu2", "final_logit_softcapping": 15.0},
)
