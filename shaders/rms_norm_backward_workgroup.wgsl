// rms_norm_backward_workgroup, element by element.
//!import pack
//!import rms_norm_backward_workgroup
