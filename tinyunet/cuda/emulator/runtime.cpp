// The runtime as one translation unit.
#include "scheduler.cpp"
#include "memory.cpp"
