// layer_norm_backward_modulation with one invocation per chunk and four columns.
//!import pack_vec4
//!import layer_norm_backward_modulation
