// policy_stats, element by element.
//!import pack
//!import policy_stats
