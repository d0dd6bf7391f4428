// A linked-attention problem for tests: documents encoded alone by the backend under test, requests that place them
// anywhere among fresh tokens, and the answer of the masked oracle.
#ifndef KVLINK_TESTS_KERNELS_LINKED_CASE_H_
#define KVLINK_TESTS_KERNELS_LINKED_CASE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/slab.h"
#include "kernels/kernels.h"
#include "kernels/ref/masked_attention.h"
#include "tests/support/device_tensor.h"
#include "tests/support/seed.h"

namespace kvlink::testing {

// [token][kv_head][dim].
struct KeysValues {
  std::vector<float> keys;  // unrotated
  std::vector<float> values;
};

struct Placement {
  int64_t document = 0;
  int64_t offset = 0;
  std::vector<bool> hidden;  // [tokens of the document], or empty
};

struct Request {
  std::vector<Placement> placements;
  std::vector<int64_t> fresh;  // ascending global positions: system, links, question, recomputed tokens
  std::vector<int64_t> rows;   // fresh tokens that are queries, ascending
};

// A case without any memory: plain data, so that tests can write one out.
struct CaseShape {
  kernels::AttentionParams params;
  kernels::RopeConfig rope;
  Codec codec = Codec::kRawF32;
  kernels::Dtype activations = kernels::Dtype::kF32;  // q, out and private KV
  std::vector<int64_t> documents;                     // tokens per document
  std::vector<Request> requests;
  std::vector<float> sinks;  // [heads], or empty
  uint64_t seed = 0;

  std::string Text() const;
};

// A random shape: GQA ratios, head dimensions 64, 80 and 128, all rope types, windows, 1-20 documents of 1-700 tokens
// at offsets to 100,000 in any order, 0, 1 or 5 links, 1-3 requests that share documents, hidden sets, soft caps,
// sinks.
CaseShape RandomShape(uint64_t seed);
// The same with a question of 17 to 150 tokens in each request, and with every fresh token as a query.
CaseShape WithManyRows(CaseShape shape);
// Roughly the number of multiplications of query and key elements that the scalar oracle needs.
double Work(const CaseShape& shape);
// How many random cases a test takes: fewer where everything is slow.
inline uint64_t Cases(uint64_t quick) {
  if (Soak()) return 80 * quick;
  return testing::kSanitized ? (quick + 2) / 3 : quick;
}

class LinkedCase {
 public:
  // Encodes the documents (QkvFinish, Pack) and writes the fresh tokens (QkvFinish) on `backend`, which must outlive
  // the case.
  LinkedCase(kernels::Backend* backend, CaseShape shape);

  struct Answer {
    std::vector<float> out;   // [rows][H * D]
    std::vector<float> lse;   // [rows][H]
    std::vector<float> mass;  // [tokens of all reads], if asked for
  };
  // The rows of the batch whose KeyMass is asked for, and what every token has before.
  struct MassRows {
    int64_t begin = 0, count = 0;
    float before = 0;
  };
  // Linked attention of the given requests' rows in one batch. Segments are the documents, then the requests' private
  // KV; reads are ordered by segment, request and placement.
  Answer Run(const std::vector<size_t>& requests, const MassRows* mass = nullptr);
  // One attention of one request over keys shifted by ShiftKeys to their global positions; raw-f32 only.
  Answer RunMaterialised(size_t request);
  kernels::MaskedAttentionResult Oracle(size_t request) const;

  const CaseShape& shape() const { return shape_; }

 private:
  struct Document {
    DeviceTensor slab;
    std::vector<const std::byte*> layers;  // a poisoned slab, then the document's: the test reads layer 1
    KeysValues plain;                      // the values of the stored bytes
  };
  struct Private {
    DeviceTensor pages;
    std::vector<int32_t> table;
    std::vector<const std::byte*> layers;
    KeysValues plain;
    std::vector<float> queries;  // [fresh][H][D], unrotated
  };

  Document Encode(int64_t tokens);
  Private WriteFresh(const std::vector<int64_t>& positions);
  // Runs QkvFinish over random rows at `positions` into new pages; `table` receives the page of each block.
  DeviceTensor Finish(const std::vector<int64_t>& positions, kernels::Dtype dtype, KeysValues* plain,
                      std::vector<float>* queries, std::vector<int32_t>* table);
  kernels::KvSegment PrivateSegment(const Private& fresh, const std::vector<int64_t>& positions) const;
  Answer Attend(const kernels::AttentionBatch& batch, const std::vector<float>& queries, const MassRows* mass);
  // Rotates stored keys (rotated to `positions`, including the factor) back to unrotated ones.
  void Unrotate(const std::vector<int64_t>& positions, std::vector<float>* keys) const;
  std::vector<float> Normal(int64_t count);

  kernels::Backend* const backend_;
  const std::unique_ptr<kernels::Stream> stream_;
  CaseShape shape_;
  const kernels::Rope rope_;
  uint64_t draws_ = 0;
  DeviceTensor sinks_;
  DeviceTensor poison_;
  std::vector<Document> documents_;
  std::vector<Private> fresh_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_KERNELS_LINKED_CASE_H_
