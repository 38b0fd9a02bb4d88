// layer_norm_backward_modulation with an invocation for each chunk and column.
//!import pack
//!import layer_norm_backward_modulation
