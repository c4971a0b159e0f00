//! What every isolation must do, in the words of a user: the real program,
//! real virtual machines.

mod claude;
mod fresh;
