// gated_residual_backward_gate with one invocation per chunk and column.
//!import pack
//!import gated_residual_backward_gate
