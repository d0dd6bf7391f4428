#include "tests/kernels/linked_case.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"

namespace kvlink::testing {
namespace {

using kernels::AttentionParams;
using kernels::Dtype;
using kernels::RopeConfig;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "linked case: %s\n", std::string(status.message()).c_str());
  std::abort();
}

template <typename T>
T Pick(std::mt19937_64& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}

// Inclusive.
int64_t Between(std::mt19937_64& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

RopeConfig RandomRope(std::mt19937_64& random, int64_t head_dim) {
  RopeConfig config;
  config.type = Pick(random, {RopeConfig::Type::kDefault, RopeConfig::Type::kLinear, RopeConfig::Type::kLlama3,
                              RopeConfig::Type::kYarn});
  config.theta = Pick(random, {10000.0, 100000.0, 500000.0});
  config.rotary_dim = random() % 4 == 0 ? head_dim / 2 : head_dim;
  config.factor = config.type == RopeConfig::Type::kDefault ? 1.0 : Pick(random, {2.0, 8.0, 32.0});
  config.original_context = 8192;
  return config;
}

std::vector<bool> RandomHidden(std::mt19937_64& random, int64_t tokens) {
  std::vector<bool> hidden(static_cast<size_t>(tokens), false);
  switch (random() % 4) {
    case 0:  // everything
      if (tokens <= 24) hidden.assign(hidden.size(), true);
      break;
    case 1:  // the first k, as head-k does
      for (int64_t j = 0; j < std::min<int64_t>(tokens, 1 + static_cast<int64_t>(random() % 8)); ++j) hidden[j] = true;
      break;
    default:  // here and there, as blend-r does
      for (int64_t i = Between(random, 1, 8); i > 0; --i) hidden[random() % hidden.size()] = true;
  }
  return hidden;
}

Request RandomRequest(std::mt19937_64& random, const std::vector<int64_t>& documents, bool all) {
  Request request;
  std::vector<int64_t> order(documents.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::shuffle(order.begin(), order.end(), random);
  if (!all) order.resize(1 + random() % order.size());
  const int64_t links = Pick<int64_t>(random, {0, 1, 5});
  int64_t position = random() % 2 == 0 ? 0 : Between(random, 0, 100000);
  for (int64_t i = Between(random, 0, 4); i > 0; --i) request.fresh.push_back(position++);
  for (int64_t document : order) {
    Placement placement{.document = document, .offset = position};
    const int64_t tokens = documents[static_cast<size_t>(document)];
    if (random() % 3 == 0) {
      placement.hidden = RandomHidden(random, tokens);
      for (int64_t j = 0; j < tokens; ++j) {
        // Most hidden positions have a recomputed token; some just vanish.
        if (placement.hidden[static_cast<size_t>(j)] && random() % 8 != 0) request.fresh.push_back(position + j);
      }
    }
    request.placements.push_back(std::move(placement));
    position += tokens;
    for (int64_t i = 0; i < links; ++i) request.fresh.push_back(position++);
  }
  for (int64_t i = Between(random, 1, 4); i > 0; --i) request.fresh.push_back(position++);
  std::vector<int64_t> rows(request.fresh.size());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  std::shuffle(rows.begin(), rows.end(), random);
  rows.resize(std::min<size_t>(rows.size(), 1 + random() % 9));
  std::sort(rows.begin(), rows.end());
  request.rows = std::move(rows);
  return request;
}

// Bits of a hidden set as KvRead wants them.
std::vector<uint64_t> Bits(const std::vector<bool>& hidden) {
  std::vector<uint64_t> words((hidden.size() + 63) / 64, 0);
  for (size_t j = 0; j < hidden.size(); ++j) {
    if (hidden[j]) words[j / 64] |= uint64_t{1} << (j % 64);
  }
  return words;
}

// The slab's keys and values as floats, [token][head][dim]; keys as stored.
KeysValues ReadSlab(const SlabShape& shape, const std::vector<std::byte>& bytes) {
  KeysValues plain;
  const int64_t dim = shape.head_dim;
  const auto element = [&](const std::byte* row, const std::byte* scale, int64_t d) {
    float value = 0;
    uint16_t half = 0;
    int8_t code = 0;
    if (shape.codec == Codec::kRawF32) {
      std::memcpy(&value, row + 4 * d, 4);
    } else if (shape.codec == Codec::kRawBf16) {
      std::memcpy(&half, row + 2 * d, 2);
      value = kernels::Bf16ToFloat(half);
    } else {
      std::memcpy(&value, scale, 4);
      std::memcpy(&code, row + d, 1);
      value *= static_cast<float>(code);
    }
    return value;
  };
  for (int64_t t = 0; t < shape.tokens; ++t) {
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      const int64_t n = shape.block_tokens(t / 64), i = t % 64;
      const std::byte* block = bytes.data() + shape.block_offset(head, t / 64);
      const std::byte* scales = block + shape.scale_offset(n);
      for (int64_t d = 0; d < dim; ++d) {
        plain.keys.push_back(element(block + i * shape.row_bytes(), scales + 4 * i, d));
        plain.values.push_back(element(block + shape.value_offset(n) + i * shape.row_bytes(), scales + 4 * (n + i), d));
      }
    }
  }
  return plain;
}

}  // namespace

std::string CaseShape::Text() const {
  int64_t tokens = 0;
  for (int64_t n : documents) tokens += n;
  return absl::StrCat("seed ", seed, ": ", CodecName(codec), " ", kernels::DtypeName(activations), ", ", params.heads,
                      "/", params.kv_heads, " heads of ", params.head_dim, ", rope type ", static_cast<int>(rope.type),
                      " over ", rope.rotary_dim, ", window ", params.window, ", softcap ", params.softcap, ", ",
                      documents.size(), " documents of ", tokens, " tokens, ", requests.size(), " requests");
}

CaseShape RandomShape(uint64_t seed) {
  std::mt19937_64 random(seed);
  CaseShape shape;
  shape.seed = seed;
  AttentionParams& params = shape.params;
  params.kv_heads = Between(random, 1, 3);
  params.heads = params.kv_heads * Pick<int64_t>(random, {1, 2, 3, 4, 8});
  params.head_dim = Pick<int64_t>(random, {64, 64, 80, 128});
  params.scale = Pick(random, {1.0f, 2.0f}) / std::sqrt(static_cast<float>(params.head_dim));
  params.softcap = random() % 5 == 0 ? 3.0f : 0.0f;
  params.window = random() % 3 == 0 ? Between(random, 1, 900) : 0;
  shape.rope = RandomRope(random, params.head_dim);
  if (random() % 4 == 0) {
    for (int64_t head = 0; head < params.heads; ++head) {
      shape.sinks.push_back(static_cast<float>(Between(random, -3, 6)));
    }
  }
  for (int64_t i = Between(random, 1, random() % 4 == 0 ? 20 : 6); i > 0; --i) {
    const int64_t longest = random() % 4 == 0 ? 700 : 100;
    shape.documents.push_back(Between(random, 1, longest));
  }
  for (int64_t i = Between(random, 1, 3); i > 0; --i) {
    shape.requests.push_back(RandomRequest(random, shape.documents, shape.requests.empty()));
  }
  return shape;
}

CaseShape WithManyRows(CaseShape shape) {
  std::mt19937_64 random(shape.seed);
  for (Request& request : shape.requests) {
    for (int64_t i = Between(random, 17, 150); i > 0; --i) request.fresh.push_back(request.fresh.back() + 1);
    request.rows.resize(request.fresh.size());
    std::iota(request.rows.begin(), request.rows.end(), int64_t{0});
  }
  return shape;
}

double Work(const CaseShape& shape) {
  int64_t work = 0;
  for (const Request& request : shape.requests) {
    int64_t tokens = static_cast<int64_t>(request.fresh.size());
    for (const Placement& placement : request.placements) {
      tokens += shape.documents[static_cast<size_t>(placement.document)];
    }
    work += tokens * static_cast<int64_t>(request.rows.size()) * shape.params.heads * shape.params.head_dim;
  }
  return static_cast<double>(work);
}

LinkedCase::LinkedCase(kernels::Backend* backend, CaseShape shape)
    : backend_(backend),
      stream_(backend->NewStream()),
      shape_(std::move(shape)),
      rope_(kernels::MakeRope(shape_.rope).value()) {
  if (!shape_.sinks.empty()) {
    sinks_ = DeviceTensor::Of(backend_, Dtype::kF32, {shape_.params.heads}, shape_.sinks);
    shape_.params.sinks = sinks_.view().as<const float>();
  }
  poison_ = DeviceTensor::Poisoned(backend_, Dtype::kU8, {4096});
  for (int64_t tokens : shape_.documents) documents_.push_back(Encode(tokens));
  for (const Request& request : shape_.requests) fresh_.push_back(WriteFresh(request.fresh));
}

std::vector<float> LinkedCase::Normal(int64_t count) {
  std::mt19937_64 random(shape_.seed * 1000003 + ++draws_);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

DeviceTensor LinkedCase::Finish(const std::vector<int64_t>& positions, Dtype dtype, KeysValues* plain,
                                std::vector<float>* queries, std::vector<int32_t>* table) {
  const AttentionParams& params = shape_.params;
  const int64_t rows = static_cast<int64_t>(positions.size()), dim = params.head_dim;
  const int64_t width = (params.heads + 2 * params.kv_heads) * dim, blocks = (rows + 63) / 64;
  for (int64_t b = 0; b < blocks; ++b) table->push_back(static_cast<int32_t>(blocks - b));  // page 0 stays unused
  std::vector<int64_t> slots;
  for (int64_t row = 0; row < rows; ++row) slots.push_back((*table)[static_cast<size_t>(row / 64)] * 64 + row % 64);
  const std::vector<float> values = Normal(rows * width);
  const auto qkv = DeviceTensor::Of(backend_, Dtype::kF32, {rows, width}, values);
  DeviceTensor pages = DeviceTensor::Poisoned(backend_, dtype, {blocks + 1, params.kv_heads, 128, dim});
  const auto q_out = DeviceTensor::Poisoned(backend_, shape_.activations, {rows, params.heads, dim});
  const auto position_tensor = DeviceTensor::OfInts(backend_, Dtype::kI64, positions);
  const auto slot_tensor = DeviceTensor::OfInts(backend_, Dtype::kI64, slots);
  kernels::QkvFinishArgs args;
  args.params = params;
  args.qkv = qkv;
  args.rope = &rope_;
  args.positions = position_tensor, args.slots = slot_tensor, args.pages = pages, args.q_out = q_out;
  Check(backend_->QkvFinish(*stream_, args));
  Check(stream_->Synchronize());
  for (int64_t row = 0; row < rows; ++row) {
    const auto key = values.begin() + row * width + params.heads * dim, value = key + params.kv_heads * dim;
    plain->keys.insert(plain->keys.end(), key, value);
    plain->values.insert(plain->values.end(), value, value + params.kv_heads * dim);
  }
  *queries = q_out.Floats();
  return pages;
}

void LinkedCase::Unrotate(const std::vector<int64_t>& positions, std::vector<float>* keys) const {
  const int64_t heads = shape_.params.kv_heads, dim = shape_.params.head_dim;
  const size_t half = rope_.inv_freq.size();
  for (size_t row = 0; row < positions.size() * static_cast<size_t>(heads); ++row) {
    float* key = keys->data() + static_cast<int64_t>(row) * dim;
    for (size_t i = 0; i < half; ++i) {
      const double angle = -static_cast<double>(positions[row / static_cast<size_t>(heads)]) * rope_.inv_freq[i];
      const double cosine = std::cos(angle) / rope_.attention_factor, sine = std::sin(angle) / rope_.attention_factor;
      const double a = static_cast<double>(key[i]), b = static_cast<double>(key[i + half]);
      key[i] = static_cast<float>(a * cosine - b * sine);
      key[i + half] = static_cast<float>(a * sine + b * cosine);
    }
  }
}

LinkedCase::Document LinkedCase::Encode(int64_t tokens) {
  Document document;
  std::vector<int64_t> positions(static_cast<size_t>(tokens));
  std::iota(positions.begin(), positions.end(), int64_t{0});
  std::vector<float> queries;
  std::vector<int32_t> table;
  const DeviceTensor pages = Finish(positions, Dtype::kF32, &document.plain, &queries, &table);
  const SlabShape slab{shape_.codec, shape_.params.kv_heads, shape_.params.head_dim, tokens};
  document.slab = DeviceTensor::Poisoned(backend_, Dtype::kU8, {slab.slab_bytes()});
  Check(backend_->Pack(*stream_, {slab, pages, table.data(), &rope_, document.slab}));
  Check(stream_->Synchronize());
  document.layers = {poison_.data(), document.slab.data()};
  if (shape_.codec != Codec::kRawF32) {
    document.plain = ReadSlab(slab, document.slab.Bytes());
    Unrotate(positions, &document.plain.keys);
  }
  return document;
}

LinkedCase::Private LinkedCase::WriteFresh(const std::vector<int64_t>& positions) {
  Private fresh;
  fresh.pages = Finish(positions, shape_.activations, &fresh.plain, &fresh.queries, &fresh.table);
  fresh.layers = {poison_.data(), fresh.pages.data()};
  if (shape_.activations != Dtype::kF32) {
    // The values that rounding left in the pages.
    const int64_t heads = shape_.params.kv_heads, dim = shape_.params.head_dim;
    const std::vector<float> pages = fresh.pages.Floats();
    for (size_t t = 0; t < positions.size(); ++t) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t from = ((fresh.table[t / 64] * heads + head) * 128 + static_cast<int64_t>(t % 64)) * dim;
        const int64_t to = (static_cast<int64_t>(t) * heads + head) * dim;
        std::copy_n(pages.begin() + from, dim, fresh.plain.keys.begin() + to);
        std::copy_n(pages.begin() + from + 64 * dim, dim, fresh.plain.values.begin() + to);
      }
    }
    Unrotate(positions, &fresh.plain.keys);
  }
  return fresh;
}

kernels::KvSegment LinkedCase::PrivateSegment(const Private& fresh, const std::vector<int64_t>& positions) const {
  const int64_t head = 128 * shape_.params.head_dim * kernels::DtypeBytes(shape_.activations);
  kernels::KvSegment segment;
  segment.codec = shape_.activations == Dtype::kF32 ? Codec::kRawF32 : Codec::kRawBf16;
  segment.layer_data = fresh.layers;
  segment.block_table = fresh.table.data();
  segment.head_stride = head;
  segment.block_stride = head * shape_.params.kv_heads;
  segment.tokens = static_cast<int64_t>(positions.size());
  segment.padded_blocks = true;
  segment.positions = positions.data();
  return segment;
}

LinkedCase::Answer LinkedCase::Attend(const kernels::AttentionBatch& batch, const std::vector<float>& queries,
                                      const MassRows* mass) {
  const AttentionParams& params = shape_.params;
  const int64_t rows = static_cast<int64_t>(batch.positions.size()), dim = params.head_dim;
  auto plan = backend_->Plan(batch, nullptr);
  Check(plan.status());
  const auto q = DeviceTensor::Of(backend_, shape_.activations, {rows, params.heads, dim}, queries,
                                  {params.heads * dim + 8, dim, 1});
  const auto out =
      DeviceTensor::Poisoned(backend_, shape_.activations, {rows, params.heads * dim}, {params.heads * dim + 16, 1});
  const auto lse = DeviceTensor::Poisoned(backend_, Dtype::kF32, {rows, params.heads}, {params.heads + 1, 1});
  // Not zeros: nothing may be read from it that was not written.
  const auto workspace =
      DeviceTensor::Poisoned(backend_, Dtype::kU8, {backend_->AttentionWorkspaceBytes(**plan, params)});
  Check(backend_->LinkedAttention(
      *stream_, {plan->get(), 1, params, q, out, lse, {workspace.view().data, workspace.view().bytes}}));
  Check(stream_->Synchronize());
  if (!out.GapsIntact() || !lse.GapsIntact()) Check(absl::InternalError("wrote between the rows"));
  if (mass == nullptr) return {out.Floats(), lse.Floats(), {}};
  size_t tokens = 0;
  for (const kernels::KvRead& read : batch.reads) {
    tokens += static_cast<size_t>(batch.segments[static_cast<size_t>(read.segment)].tokens);
  }
  const auto received =
      DeviceTensor::Of(backend_, Dtype::kF32, {static_cast<int64_t>(tokens)}, std::vector<float>(tokens, mass->before));
  Check(backend_->KeyMass(*stream_, {plan->get(),
                                     1,
                                     params,
                                     q,
                                     lse,
                                     mass->begin,
                                     mass->count,
                                     received,
                                     {workspace.view().data, workspace.view().bytes}}));
  Check(stream_->Synchronize());
  return {out.Floats(), lse.Floats(), received.Floats()};
}

LinkedCase::Answer LinkedCase::Run(const std::vector<size_t>& requests, const MassRows* mass) {
  const int64_t query = shape_.params.heads * shape_.params.head_dim;
  std::vector<int64_t> positions;
  std::vector<float> queries;
  std::vector<kernels::KvSegment> segments;
  std::vector<kernels::KvRead> reads;
  std::vector<std::vector<uint64_t>> bits;  // moving an inner vector keeps its words where they are
  for (const Document& document : documents_) {
    const int64_t tokens = shape_.documents[segments.size()];
    const SlabShape slab{shape_.codec, shape_.params.kv_heads, shape_.params.head_dim, tokens};
    segments.push_back({.codec = shape_.codec,
                        .layer_data = document.layers,
                        .head_stride = slab.head_bytes(),
                        .block_stride = slab.block_stride(),
                        .tokens = tokens});
  }
  for (size_t r : requests) {
    const Request& request = shape_.requests[r];
    const int64_t begin = static_cast<int64_t>(positions.size()), count = static_cast<int64_t>(request.rows.size());
    for (int64_t row : request.rows) {
      positions.push_back(request.fresh[static_cast<size_t>(row)]);
      queries.insert(queries.end(), fresh_[r].queries.begin() + row * query,
                     fresh_[r].queries.begin() + (row + 1) * query);
    }
    for (const Placement& placement : request.placements) {
      kernels::KvRead read{static_cast<int32_t>(placement.document), begin, count, placement.offset, nullptr};
      if (!placement.hidden.empty()) read.hidden = bits.emplace_back(Bits(placement.hidden)).data();
      reads.push_back(read);
    }
    reads.push_back({static_cast<int32_t>(segments.size()), begin, count, 0, nullptr});
    segments.push_back(PrivateSegment(fresh_[r], request.fresh));
  }
  std::stable_sort(reads.begin(), reads.end(), [](const auto& a, const auto& b) { return a.segment < b.segment; });
  const kernels::Rope* ropes[] = {&rope_};
  return Attend({positions, segments, reads, ropes}, queries, mass);
}

LinkedCase::Answer LinkedCase::RunMaterialised(size_t index) {
  const Request& request = shape_.requests[index];
  const int64_t heads = shape_.params.kv_heads, dim = shape_.params.head_dim, width = heads * dim;
  struct Token {
    int64_t position;
    std::vector<float> key, value;  // [G][D], the key rotated at its position
  };
  std::vector<Token> tokens;
  for (const Placement& placement : request.placements) {
    const Document& document = documents_[static_cast<size_t>(placement.document)];
    const int64_t n = shape_.documents[static_cast<size_t>(placement.document)];
    const SlabShape slab{Codec::kRawF32, heads, dim, n};
    const auto shifted = DeviceTensor::Poisoned(backend_, Dtype::kF32, {n, heads, dim});
    for (int64_t b = 0; b < slab.blocks(); ++b) {
      const int64_t held = slab.block_tokens(b);
      kernels::Tensor in = document.slab.view();
      in.dtype = Dtype::kF32, in.rank = 3;
      in.data = in.as<std::byte>() + slab.block_offset(0, b);
      in.bytes -= slab.block_offset(0, b);
      in.sizes = {held, heads, dim}, in.strides = {dim, slab.head_bytes() / 4, 1};
      std::vector<int64_t> slots(static_cast<size_t>(held));
      std::iota(slots.begin(), slots.end(), b * 64);
      const auto slot_tensor = DeviceTensor::OfInts(backend_, Dtype::kI64, slots);
      Check(backend_->ShiftKeys(*stream_, {&rope_, placement.offset, in, slot_tensor, shifted}));
      Check(stream_->Synchronize());
    }
    const std::vector<float> keys = shifted.Floats();
    const std::vector<float>& values = document.plain.values;
    for (int64_t j = 0; j < n; ++j) {
      if (!placement.hidden.empty() && placement.hidden[static_cast<size_t>(j)]) continue;
      tokens.push_back({placement.offset + j,
                        {keys.begin() + j * width, keys.begin() + (j + 1) * width},
                        {values.begin() + j * width, values.begin() + (j + 1) * width}});
    }
  }
  const std::vector<float> private_pages = fresh_[index].pages.Floats();
  for (size_t t = 0; t < request.fresh.size(); ++t) {
    Token token{request.fresh[t], {}, {}};
    for (int64_t head = 0; head < heads; ++head) {
      const auto key = private_pages.begin() +
                       ((fresh_[index].table[t / 64] * heads + head) * 128 + static_cast<int64_t>(t % 64)) * dim;
      token.key.insert(token.key.end(), key, key + dim);
      token.value.insert(token.value.end(), key + 64 * dim, key + 65 * dim);
    }
    tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.position < b.position; });

  const int64_t blocks = (static_cast<int64_t>(tokens.size()) + 63) / 64;
  std::vector<float> pages(static_cast<size_t>(blocks * heads * 128 * dim), NAN);
  std::vector<int64_t> token_positions;
  for (size_t t = 0; t < tokens.size(); ++t) {
    token_positions.push_back(tokens[t].position);
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t to = ((static_cast<int64_t>(t / 64) * heads + head) * 128 + static_cast<int64_t>(t % 64)) * dim;
      std::copy_n(tokens[t].key.begin() + head * dim, dim, pages.begin() + to);
      std::copy_n(tokens[t].value.begin() + head * dim, dim, pages.begin() + to + 64 * dim);
    }
  }
  Private all;
  all.pages = DeviceTensor::Of(backend_, Dtype::kF32, {blocks, heads, 128, dim}, pages);
  all.layers = {poison_.data(), all.pages.data()};
  for (int64_t b = 0; b < blocks; ++b) all.table.push_back(static_cast<int32_t>(b));
  const std::vector<kernels::KvSegment> segments = {PrivateSegment(all, token_positions)};
  std::vector<int64_t> positions;
  std::vector<float> queries;
  const int64_t query = shape_.params.heads * dim;
  for (int64_t row : request.rows) {
    positions.push_back(request.fresh[static_cast<size_t>(row)]);
    const auto from = fresh_[index].queries.begin() + row * query;
    queries.insert(queries.end(), from, from + query);
  }
  const std::vector<kernels::KvRead> reads = {{0, 0, static_cast<int64_t>(positions.size()), 0, nullptr}};
  const kernels::Rope* ropes[] = {&rope_};
  return Attend({positions, segments, reads, ropes}, queries, nullptr);
}

kernels::MaskedAttentionResult LinkedCase::Oracle(size_t index) const {
  const Request& request = shape_.requests[index];
  std::vector<kernels::MaskedToken> queries, tokens;
  std::vector<float> query_values, keys, values;
  const int64_t query = shape_.params.heads * shape_.params.head_dim;
  for (int64_t row : request.rows) {
    queries.push_back({request.fresh[static_cast<size_t>(row)], 0});
    const auto from = fresh_[index].queries.begin() + row * query;
    query_values.insert(query_values.end(), from, from + query);
  }
  const auto add = [&](const KeysValues& plain) {
    keys.insert(keys.end(), plain.keys.begin(), plain.keys.end());
    values.insert(values.end(), plain.values.begin(), plain.values.end());
  };
  for (const Placement& placement : request.placements) {
    const int64_t n = shape_.documents[static_cast<size_t>(placement.document)];
    for (int64_t j = 0; j < n; ++j) {
      const bool hidden = !placement.hidden.empty() && placement.hidden[static_cast<size_t>(j)];
      tokens.push_back({placement.offset + j, static_cast<int32_t>(placement.document + 1), hidden});
    }
    add(documents_[static_cast<size_t>(placement.document)].plain);
  }
  for (int64_t position : request.fresh) tokens.push_back({position, 0});
  add(fresh_[index].plain);
  kernels::AttentionParams params = shape_.params;
  if (!shape_.sinks.empty()) params.sinks = shape_.sinks.data();  // host memory
  return kernels::MaskedAttention(params, rope_, queries, query_values, tokens, keys, values);
}

}  // namespace kvlink::testing
