// Division by a number that is not known before the launch, but stays the same in it: by a multiplication and a shift.
//
// A GPU has no instruction for integer division; it is some twenty others. A loop that turns pixel numbers into rows and
// columns would spend more on that than on its products.
#pragma once

struct FastDivision {
  int divisor, shift;
  unsigned magic;  // 2^32 (2^shift - divisor) / divisor, rounded up, for the least shift with 2^shift >= divisor

  __device__ explicit FastDivision(int divisor)
      : divisor(divisor), shift(32 - __clz(divisor - 1)),
        magic(unsigned((((1ull << shift) - divisor) << 32) / divisor + 1)) {}

  // n / divisor, for 0 <= n < 2^31
  __device__ int quotient(int n) const {
    const unsigned high = unsigned((unsigned long long)(unsigned)n * magic >> 32);
    return int((high + (unsigned)n) >> shift);
  }
  __device__ int remainder(int n) const { return n - quotient(n) * divisor; }
};
