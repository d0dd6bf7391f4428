// Training checkpoints: whatever is read must survive being written and read again. The first byte says what the rest
// is: 'c' a whole checkpoint, 'p' its payload, else its note alone. What is around it is made here, so that checksum
// and lengths do not stop the search.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/little_endian.h"
#include "worker/train/checkpoint.h"

namespace {

using namespace kvlink::train;

std::string NotePayload(absl::string_view note) {
  const std::string header =
      absl::StrCat(R"({"run":{"dtype":"U8","shape":[)", note.size(), R"(],"data_offsets":[0,)", note.size(), "]}}");
  std::string payload;
  kvlink::AppendField(uint64_t{header.size()}, &payload);
  return absl::StrCat(payload, header, note);
}

std::string WithHeader(absl::string_view payload) {
  std::string bytes("KVTC\1\0\0\0", 8);
  kvlink::AppendField(uint64_t{payload.size()}, &bytes);
  kvlink::AppendField(kvlink::Xxh3(payload.data(), payload.size()), &bytes);
  return absl::StrCat(bytes, payload);
}

// Tensors without values may change places.
std::string Sorted(Checkpoint checkpoint) {
  for (std::vector<NamedTensor>* tensors : {&checkpoint.state, &checkpoint.chosen}) {
    std::sort(tensors->begin(), tensors->end(),
              [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
  }
  return EncodeCheckpoint(checkpoint);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto read = DecodeCheckpoint(data[0] == 'c' ? rest : WithHeader(data[0] == 'p' ? rest : NotePayload(rest)));
  if (!read.ok()) return 0;
  if (read->step < 0 || read->drawn < 0 || read->best_step < 0 || read->worse < 0) std::abort();
  for (const std::vector<NamedTensor>* tensors : {&read->state, &read->chosen}) {
    for (const NamedTensor& one : *tensors) {
      uint64_t values = 1;
      for (const int64_t length : one.shape) values *= static_cast<uint64_t>(length);
      if (values != one.values.size()) std::abort();
    }
  }
  const auto again = DecodeCheckpoint(EncodeCheckpoint(*read));
  if (!again.ok() || Sorted(*again) != Sorted(*read)) std::abort();
  return 0;
}
