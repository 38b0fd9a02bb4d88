// rms_norm_workgroup, element by element.
//!import pack
//!import rms_norm_workgroup
