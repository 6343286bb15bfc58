"""The configuration class of StepVL checkpoints, read with ``--trust-remote-code``."""

from transformers import PretrainedConfig, Qwen3Config


class StepVLVisionConfig(PretrainedConfig):
    """The Perception Encoder's sizes; lengths in pixels, ``width`` in channels."""

    model_type = "perception_encoder"


class StepVLConfig(PretrainedConfig):
    """A vision encoder, a projector without bias and a Qwen3 decoder."""

    model_type = "step_robotics"

    def __init__(self, vision_config=None, text_config=None, projector_bias=False, **kwargs):
        self.vision_config = StepVLVisionConfig(**(vision_config or {}))
        self.text_config = Qwen3Config(**(text_config or {}))
        self.projector_bias = projector_bias
        self.hidden_size = self.text_config.hidden_size
        super().__init__(**kwargs)

    def get_text_config(self, *args, **kwargs):
        return self.text_config
