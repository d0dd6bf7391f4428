#include "worker/train/tensor_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/descriptor.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "kernels/bf16.h"
#include "nlohmann/json.hpp"
#include "worker/files/safetensors.h"

namespace kvlink::train {
namespace {

absl::Status SystemError(const std::string& path) {
  const int error = errno;
  const std::string message = absl::StrCat(path, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(message);
  return absl::Status(absl::ErrnoToStatusCode(error), message);
}

// The length and the JSON in front of the data. `note_bytes` < 0: no note.
std::string Header(absl::Span<const TensorWriter::Entry> entries, bool bf16, absl::string_view note_name,
                   int64_t note_bytes) {
  auto json = nlohmann::ordered_json::object();
  int64_t end = 0;
  for (const TensorWriter::Entry& entry : entries) {
    int64_t bytes = bf16 ? 2 : 4;
    for (const int64_t size : entry.shape) bytes *= size;
    json[entry.name] = {{"dtype", bf16 ? "BF16" : "F32"}, {"shape", entry.shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  if (note_bytes >= 0) {
    json[std::string(note_name)] = {
        {"dtype", "U8"}, {"shape", {note_bytes}}, {"data_offsets", {end, end + note_bytes}}};
  }
  std::string text = json.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // data begins where any element may be read in place
  std::string header;
  AppendField(uint64_t{text.size()}, &header);
  return header + text;
}

absl::string_view BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

}  // namespace

DurableFile::DurableFile(DurableFile&& other) noexcept
    : path_(std::move(other.path_)), part_(std::move(other.part_)), file_(std::exchange(other.file_, -1)) {}

DurableFile::~DurableFile() {
  if (file_ < 0) return;
  close(file_);
  unlink(part_.c_str());
}

absl::StatusOr<DurableFile> DurableFile::Create(const std::string& path) {
  DurableFile file(path);
  file.file_ = open(file.part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file.file_ < 0) return SystemError(file.part_);
  return file;
}

absl::Status DurableFile::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(file_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(part_);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status DurableFile::Commit() {
  if (fsync(file_) != 0 || rename(part_.c_str(), path_.c_str()) != 0) return SystemError(part_);
  close(std::exchange(file_, -1));
  std::string folder = std::filesystem::path(path_).parent_path().string();
  if (folder.empty()) folder = ".";
  const Descriptor directory(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || fsync(directory.get()) != 0) return SystemError(folder);
  return absl::OkStatus();
}

absl::Status WriteDurably(const std::string& path, absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(DurableFile file, DurableFile::Create(path));
  KVLINK_RETURN_IF_ERROR(file.Write(bytes));
  return file.Commit();
}

absl::StatusOr<TensorWriter> TensorWriter::Create(const std::string& path, absl::Span<const Entry> entries, bool bf16) {
  KVLINK_ASSIGN_OR_RETURN(DurableFile file, DurableFile::Create(path));
  TensorWriter writer(std::move(file), bf16);
  for (const Entry& entry : entries) writer.names_.push_back(entry.name);
  KVLINK_RETURN_IF_ERROR(writer.file_.Write(Header(entries, bf16, "", -1)));
  return writer;
}

absl::Status TensorWriter::Add(const NamedTensor& tensor) {
  if (next_ >= names_.size() || names_[next_] != tensor.name) {
    return absl::InternalError(absl::StrCat("tensor ", tensor.name, " written out of order"));
  }
  ++next_;
  if (!bf16_) return file_.Write(BytesOf(tensor.values));
  std::vector<uint16_t> narrow(tensor.values.size());
  for (size_t i = 0; i < narrow.size(); ++i) narrow[i] = kernels::FloatToBf16(tensor.values[i]);
  return file_.Write({reinterpret_cast<const char*>(narrow.data()), narrow.size() * 2});
}

absl::Status TensorWriter::Commit() {
  if (next_ != names_.size()) return absl::InternalError(absl::StrCat("tensor ", names_[next_], " was not written"));
  return file_.Commit();
}

void AppendTensors(absl::Span<const TensorGroup> groups, absl::string_view note_name, absl::string_view note,
                   std::string* out) {
  std::vector<TensorWriter::Entry> entries;
  size_t bytes = note.size();
  for (const TensorGroup& group : groups) {
    for (const NamedTensor& tensor : group.tensors) {
      entries.push_back({absl::StrCat(group.prefix, tensor.name), tensor.shape});
      bytes += BytesOf(tensor.values).size();
    }
  }
  const std::string header = Header(entries, false, note_name, static_cast<int64_t>(note.size()));
  out->reserve(out->size() + header.size() + bytes);  // they may be most of the memory there is
  *out += header;
  for (const TensorGroup& group : groups) {
    for (const NamedTensor& tensor : group.tensors) absl::StrAppend(out, BytesOf(tensor.values));
  }
  absl::StrAppend(out, note);
}

absl::Status DecodeTensors(absl::string_view bytes, absl::string_view note_name, std::vector<NamedTensor>* tensors,
                           std::string* note) {
  KVLINK_ASSIGN_OR_RETURN(const std::vector<model::SourceTensor> sources,
                          model::ParseSafetensors({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}));
  bool found = false;
  for (const model::SourceTensor& source : sources) {
    if (source.name == note_name && source.type == "U8") {
      note->assign(reinterpret_cast<const char*>(source.bytes.data()), source.bytes.size());
      found = true;
      continue;
    }
    if (source.type != "F32") return absl::InvalidArgumentError(absl::StrCat("tensor ", source.name, " is not F32"));
    NamedTensor tensor{source.name, source.shape, std::vector<float>(source.bytes.size() / sizeof(float))};
    if (!tensor.values.empty()) std::memcpy(tensor.values.data(), source.bytes.data(), source.bytes.size());
    tensors->push_back(std::move(tensor));
  }
  if (!found) return absl::InvalidArgumentError(absl::StrCat("holds no '", note_name, "'"));
  return absl::OkStatus();
}

}  // namespace kvlink::train
