#include "store/engine/disk/segment_files.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "proto/envelope.h"

namespace kvlink::engine {
namespace {

constexpr EnvelopeKind kSegmentKind = {0x4753564b /* "KVSG" */, 1, 0, "segment header"};
constexpr int64_t kHeaderPayload = 16 + 4 + 8;
constexpr absl::string_view kSuffix = ".seg";

}  // namespace

std::string SegmentFiles::PathOf(uint32_t number) const {
  return absl::StrCat(options_.path, "/", absl::StrFormat("%06d", number), kSuffix);
}

absl::StatusOr<std::unique_ptr<SegmentFiles>> SegmentFiles::Open(const FileSystem& files, const Options& options) {
  std::unique_ptr<SegmentFiles> segments(new SegmentFiles(files, options));
  segments->direct_ = options.allow_direct;
  KVLINK_RETURN_IF_ERROR(segments->OpenExisting());
  return segments;
}

absl::Status SegmentFiles::OpenExisting() {
  KVLINK_ASSIGN_OR_RETURN(const auto names, files_.List(options_.path));
  for (const std::string& name : names) {
    const std::string path = options_.path + "/" + name;
    if (absl::EndsWith(name, ".tmp")) {
      if (!options_.read_only) KVLINK_RETURN_IF_ERROR(files_.Remove(path));
      continue;
    }
    uint32_t number = 0;
    if (!absl::EndsWith(name, kSuffix) ||
        !absl::SimpleAtoi(absl::string_view(name).substr(0, name.size() - 4), &number) || PathOf(number) != path ||
        number > UINT32_MAX / blocks_per_segment() - 1) {
      problems_.push_back(absl::StrCat(path, " is no segment"));
      continue;
    }
    KVLINK_ASSIGN_OR_RETURN(auto file,
                            files_.Open(path, {.write = !options_.read_only, .direct = options_.allow_direct}));
    KVLINK_RETURN_IF_ERROR(CheckHeader(number, *file));
    direct_ = direct_ && file->direct();
    MutexLock lock(&mutex_);
    segments_[number] = std::move(file);
  }
  return absl::OkStatus();
}

absl::Status SegmentFiles::CheckHeader(uint32_t number, const File& file) {
  alignas(4096) std::byte header[4096];  // as O_DIRECT demands
  const absl::Status read = file.Read(0, absl::MakeSpan(header));
  if (!read.ok()) {
    problems_.push_back(std::string(read.message()));
    return absl::OkStatus();
  }
  const auto payload = OpenEnvelope(
      kSegmentKind, absl::string_view(reinterpret_cast<const char*>(header), kEnvelopeBytes + kHeaderPayload));
  if (!payload.ok()) {
    problems_.push_back(absl::StrCat(file.path(), ": ", payload.status().message()));
    return absl::OkStatus();
  }
  FieldReader reader(*payload);
  Uuid uuid;
  reader.ReadBytes(uuid.data(), uuid.size());
  const uint32_t stored_number = reader.Read<uint32_t>();
  const uint64_t stored_bytes = reader.Read<uint64_t>();
  if (uuid != options_.uuid || stored_number != number ||
      stored_bytes != static_cast<uint64_t>(options_.segment_bytes)) {
    return absl::FailedPreconditionError(absl::StrCat(file.path(), " belongs to another store or place (store ",
                                                      UuidHex(uuid), ", segment ", stored_number, "); this is store ",
                                                      UuidHex(options_.uuid), "; move the file away"));
  }
  KVLINK_ASSIGN_OR_RETURN(const int64_t size, file.Size());
  if (size != options_.segment_bytes) {
    problems_.push_back(absl::StrCat(file.path(), " has ", size, " bytes instead of ", options_.segment_bytes));
  }
  return absl::OkStatus();
}

absl::Status SegmentFiles::Fill(uint32_t number, File* file) const {
  KVLINK_RETURN_IF_ERROR(options_.sparse ? file->Resize(options_.segment_bytes)
                                         : file->Allocate(options_.segment_bytes));
  constexpr int64_t kStep = 1 << 20;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  const std::unique_ptr<std::byte, Free> buffer(static_cast<std::byte*>(std::aligned_alloc(4096, kStep)));
  if (buffer == nullptr) return absl::ResourceExhaustedError("out of memory for 1 MiB of zeros");
  std::memset(buffer.get(), 0, kStep);
  std::string payload(reinterpret_cast<const char*>(options_.uuid.data()), options_.uuid.size());
  AppendField<uint32_t>(number, &payload);
  AppendField<uint64_t>(options_.segment_bytes, &payload);
  const std::string header = WrapEnvelope(kSegmentKind, payload);
  std::memcpy(buffer.get(), header.data(), header.size());
  for (int64_t offset = 0; offset < options_.segment_bytes; offset += kStep) {
    const int64_t length = std::min(kStep, options_.segment_bytes - offset);
    KVLINK_RETURN_IF_ERROR(file->Write(offset, absl::MakeConstSpan(buffer.get(), length)));
    if (options_.sparse) break;
    if (offset == 0) std::memset(buffer.get(), 0, header.size());
  }
  return file->Sync();
}

absl::StatusOr<Run> SegmentFiles::Grow() {
  MutexLock grow(&grow_mutex_);
  uint32_t number = 0;
  {
    MutexLock lock(&mutex_);
    while (segments_.contains(number)) ++number;
  }
  if (number > UINT32_MAX / blocks_per_segment() - 1)
    return absl::ResourceExhaustedError("the store has no block numbers left");
  const std::string path = PathOf(number);
  const std::string temporary = path + ".tmp";
  KVLINK_RETURN_IF_ERROR(files_.Remove(temporary));
  KVLINK_ASSIGN_OR_RETURN(auto file,
                          files_.Open(temporary, {.write = true, .create = true, .direct = options_.allow_direct}));
  absl::Status status = Fill(number, file.get());
  if (status.ok()) status = files_.Rename(temporary, path);
  if (status.ok()) status = files_.SyncDirectory(options_.path);
  if (status.ok()) {
    auto opened = files_.Open(path, {.write = true, .direct = options_.allow_direct});
    status = opened.status();
    if (status.ok()) file = *std::move(opened);
  }
  if (!status.ok()) {
    files_.Remove(temporary).IgnoreError();
    return status;
  }
  MutexLock lock(&mutex_);
  segments_[number] = std::move(file);
  return Run{number * blocks_per_segment() + 1, blocks_per_segment() - 1};
}

std::vector<Run> SegmentFiles::UsableRuns() const {
  std::vector<Run> runs;
  MutexLock lock(&mutex_);
  for (const auto& [number, file] : segments_)
    runs.push_back({number * blocks_per_segment() + 1, blocks_per_segment() - 1});
  return runs;
}

int64_t SegmentFiles::bytes() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(segments_.size()) * options_.segment_bytes;
}

File* SegmentFiles::Locate(uint32_t block, int64_t* offset) const {
  *offset = int64_t{block % blocks_per_segment()} * kSegmentBlockBytes;
  MutexLock lock(&mutex_);
  const auto it = segments_.find(block / blocks_per_segment());
  return it == segments_.end() ? nullptr : it->second.get();
}

absl::Status SegmentFiles::Sync(absl::Span<const Runs> written) {
  std::set<File*> touched;
  for (const Runs& runs : written) {
    for (const Run& run : runs) {
      int64_t offset = 0;
      if (File* file = Locate(run.first, &offset)) touched.insert(file);
    }
  }
  for (File* file : touched) KVLINK_RETURN_IF_ERROR(file->Sync());
  return absl::OkStatus();
}

}  // namespace kvlink::engine
