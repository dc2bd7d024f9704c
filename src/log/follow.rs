//! Reads whole topics without a group: from the start, to the end that they had at start, and then on.
