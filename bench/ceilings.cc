// Ceilings in the widest instructions of this CPU, chosen at run time: a ceiling that the kernels exceed would be
// meaningless.
#include "bench/ceilings.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvlink::bench {
namespace {

constexpr int64_t kArray = int64_t{1} << 30;
constexpr int64_t kReadPiece = int64_t{64} << 20;  // per thread and call
constexpr int64_t kCopyPiece = int64_t{32} << 20;

int Cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// Each returns the number of operations. 24 sums exceed latency times throughput on all of these CPUs.
constexpr int kSums = 24;
constexpr int64_t kSteps = 400000;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) double Fma512() {
  __m512 sum[kSums], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (auto& s : sum) s = y;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 24
    for (int j = 0; j < kSums; ++j) sum[j] = _mm512_fmadd_ps(x, y, sum[j]);
  }
  for (auto& s : sum) asm volatile("" : : "v"(s));
  return 2.0 * 16 * kSums * kSteps;
}
#ifdef KVLINK_COMPILES_AVX512_BF16
__attribute__((target("avx512f,avx512bf16"))) double Dot512() {
  __m512 sum[kSums];
  __m512i x = _mm512_set1_epi32(0x3c003f7f), y = _mm512_set1_epi32(0x3c003c00);  // 0.996 and 1/128; twice 1/128
  for (auto& s : sum) s = _mm512_set1_ps(0.001f);
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 24
    for (int j = 0; j < kSums; ++j) {
      sum[j] = _mm512_dpbf16_ps(sum[j], reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(y));
    }
  }
  for (auto& s : sum) asm volatile("" : : "v"(s));
  return 4.0 * 16 * kSums * kSteps;
}
#endif
__attribute__((target("avx2,fma"))) double Fma256() {
  constexpr int kSums256 = 12;
  __m256 sum[kSums256], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (auto& s : sum) s = y;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+x"(x), "+x"(y));
#pragma GCC unroll 12
    for (int j = 0; j < kSums256; ++j) sum[j] = _mm256_fmadd_ps(x, y, sum[j]);
  }
  for (auto& s : sum) asm volatile("" : : "x"(s));
  return 2.0 * 8 * kSums256 * kSteps;
}
#endif

double FmaPlain() {
  constexpr int kLanes = 48;
  float sum[kLanes] = {}, x = 0.999f, y = 0.001f;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+m"(x), "+m"(y));
    for (float& s : sum) s += x * y;
  }
  asm volatile("" : : "m"(sum));
  return 2.0 * kLanes * kSteps;
}

double Fma() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Fma512();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Fma256();
#endif
  return FmaPlain();
}

double Dot() {
#if defined(__x86_64__) && defined(KVLINK_COMPILES_AVX512_BF16)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16")) return Dot512();
#endif
  return 0;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void Read512(const char* from, int64_t bytes) {
  __m512i sum[8] = {};
  for (int64_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sum[j] = _mm512_or_si512(sum[j], _mm512_loadu_si512(from + i + 64 * j));
  }
  for (auto& s : sum) asm volatile("" : : "v"(s));
}
__attribute__((target("avx2"))) void Read256(const char* from, int64_t bytes) {
  __m256i sum[8] = {};
  for (int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      sum[j] = _mm256_or_si256(sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32 * j)));
    }
  }
  for (auto& s : sum) asm volatile("" : : "x"(s));
}
#endif

void ReadPlain(const char* from, int64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(from);
  uint64_t sum[8] = {};
  for (int64_t i = 0; i < bytes / 8; i += 8) {
    for (int j = 0; j < 8; ++j) sum[j] += words[i + j];
  }
  for (uint64_t& s : sum) asm volatile("" : "+m"(s));
}

// `bytes` is a multiple of 4096.
void Read(const char* from, int64_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Read512(from, bytes);
  if (__builtin_cpu_supports("avx2")) return Read256(from, bytes);
#endif
  ReadPlain(from, bytes);
}

// Each thread's part of `bytes`, in whole pages, at least one.
int64_t Piece(int64_t bytes, int threads, int64_t most) {
  return std::clamp<int64_t>(bytes / threads / 4096 * 4096, 4096, std::min(most, kArray / threads / 4096 * 4096));
}

}  // namespace

Ceilings::Ceilings(int threads) : threads_(threads > 0 ? threads : Cores()), from_(kArray), to_(kArray) {}

template <typename Body>
double Ceilings::Timed(Body&& body) const {
  const double start = Now();
  std::vector<std::thread> others;
  for (int i = 1; i < threads_; ++i) others.emplace_back([&body, i] { body(i); });
  body(0);
  for (std::thread& other : others) other.join();
  return Now() - start;
}

double Ceilings::Gflops(double (*compute)()) const {
  std::vector<double> done(threads_);
  const double seconds = Timed([&](int i) { done[i] = compute(); });
  double total = 0;
  for (double operations : done) total += operations;
  return total / seconds / 1e9;
}

double Ceilings::FmaGflops() const { return Gflops(Fma); }

double Ceilings::DotGflops() const { return Gflops(Dot); }

double Ceilings::ReadGbps(int64_t bytes) const {
  const int64_t piece = Piece(bytes, threads_, kReadPiece), passes = kReadPiece / piece;
  const int64_t base = Advance(bytes, piece);
  const double seconds = Timed([&](int i) {
    for (int64_t pass = 0; pass < passes; ++pass) Read(from_.as<const char>() + Offset(base, i, piece), piece);
  });
  return static_cast<double>(piece * passes) * threads_ / seconds / 1e9;
}

double Ceilings::MoveGbps(int64_t bytes) const {
  const int64_t piece = Piece(bytes / 2, threads_, kCopyPiece), passes = kCopyPiece / piece;
  const int64_t base = Advance(bytes, piece);
  const double seconds = Timed([&](int i) {
    const int64_t offset = Offset(base, i, piece);
    for (int64_t pass = 0; pass < passes; ++pass) {
      std::memcpy(to_.as<char>() + offset, from_.as<char>() + offset, static_cast<size_t>(piece));
      asm volatile("" : : : "memory");
    }
  });
  return 2.0 * static_cast<double>(piece * passes) * threads_ / seconds / 1e9;
}

// The threads' starting offset. Uncached reads advance through the array from call to call.
int64_t Ceilings::Advance(int64_t bytes, int64_t piece) const {
  if (bytes < kUncached) return 0;
  return std::exchange(at_, (at_ + piece * threads_) % kArray);
}

int64_t Ceilings::Offset(int64_t base, int thread, int64_t piece) {
  return (base + thread * piece) % (kArray - piece + 1) / 4096 * 4096;
}

}  // namespace kvlink::bench
