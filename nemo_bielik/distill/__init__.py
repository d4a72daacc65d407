"""Knowledge distillation: losses as pure functions, and the stage that trains a student."""
