//! MySQL's packets: tables of situations, and what must hold however the bytes are cut and whatever they are.
