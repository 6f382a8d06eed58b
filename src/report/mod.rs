//! What people read: facts about bases and adapters as text, JSON and pictures. No measuring, no running.

pub mod inspect;
pub mod rankmap;
