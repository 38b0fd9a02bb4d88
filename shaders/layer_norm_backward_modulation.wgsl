// layer_norm_backward_modulation with one invocation per chunk and column.
//!import pack
//!import layer_norm_backward_modulation
