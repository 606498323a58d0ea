"""Chat with any OpenAI-compatible endpoint: bounded patience, answers as they came, JSON read strictly."""

from medalign.language_models.answers import Answer, parse_object
from medalign.language_models.asking import ask
from medalign.language_models.endpoint import Endpoint

__all__ = ["Answer", "Endpoint", "ask", "parse_object"]
