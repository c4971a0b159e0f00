//! Guest kernel, templates and agent programs: how they are made, verified and cached.
