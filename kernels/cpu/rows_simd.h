// Vector kernels over one row of numbers, selected for the CPU at run time. Any count, any element alignment.
#ifndef KVLINK_KERNELS_CPU_ROWS_SIMD_H_
#define KVLINK_KERNELS_CPU_ROWS_SIMD_H_

#include <cstdint>

namespace kvlink::kernels::cpu {

struct RowKernels {
  void (*widen)(const uint16_t* from, int64_t count, float* to) = nullptr;   // bf16 to f32
  void (*narrow)(const float* from, int64_t count, uint16_t* to) = nullptr;  // f32 to bf16, to nearest even
  void (*round)(const float* from, int64_t count, float* to) = nullptr;      // f32 rounded to bf16 precision
  void (*add)(const float* from, int64_t count, float* to) = nullptr;        // to += from
  float (*sum_of_squares)(const float* from, int64_t count) = nullptr;
  void (*scale)(const float* from, float factor, const float* weight, int64_t count,
                float* to) = nullptr;  // from * factor * weight
  // row[i], row[i + half] rotated by the angles of cosine[i], sine[i].
  void (*rotate)(float* row, const float* cosine, const float* sine, int64_t half) = nullptr;
  // Index of the largest number, the first of equals; -1 if none is above -inf.
  int64_t (*argmax)(const float* from, int64_t count) = nullptr;

  // Codecs (kernels/codec.h). largest_magnitude is NaN or infinite if any number is.
  float (*largest_magnitude)(const float* from, int64_t count) = nullptr;
  void (*extremes)(const float* from, int64_t count, float* smallest, float* largest) = nullptr;  // of finite numbers
  void (*encode_q8)(const float* from, int64_t count, float inverse, int8_t* to) = nullptr;
  void (*decode_q8)(const int8_t* from, int64_t count, float scale, float* to) = nullptr;
  // count is even; two codes per byte, the even element in the low half. Scales and mins are per element, or common to
  // all.
  void (*decode_q4)(const uint8_t* from, int64_t count, float scale, float min, float* to) = nullptr;
  void (*decode_q4_channels)(const uint8_t* from, int64_t count, const uint16_t* scales_bf16, const uint16_t* mins_bf16,
                             float* to) = nullptr;
};

const RowKernels& GetRowKernels();

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ROWS_SIMD_H_
