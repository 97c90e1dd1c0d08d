//! Several devices: whole models side by side, whose answers go into one stream (data parallel), and one model split over devices whose memory
//! it needs together (tensor parallel). Both at once work too.

pub mod layout;
mod nccl;
pub(super) mod peers;
pub(super) mod ranks;
pub mod replicas;
pub mod share;
mod split;
