// Folders that `packrat quantize` writes; that they give the bits of a model that is quantised when
// it is loaded is in quantized_weights_test.cc.
#include "models/tools/quantize.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/files/checkpoint.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

void ExpectRefused(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(part), std::string::npos) << status;
}

TEST(QuantizeModel, CopiesWhatIsNoWeight) {
  ModelFiles files("qwen3");
  files.Write();
  const TempDir& from = files.dir();
  from.Write("tokenizer.json", "{}");
  from.Write("other.safetensors", "x");
  from.Write("pytorch_model.bin", "x");
  from.Write("model.gguf", "x");
  from.Write("model.safetensors.index.json", "x");
  std::filesystem::create_directory(from.File("original"));
  std::filesystem::create_directory(from.File("additional_chat_templates"));
  from.Write("additional_chat_templates/tool_use.jinja", "x");
  TempDir temp;
  const std::string out = temp.File("out");
  const absl::Status status = QuantizeModel({from.path(), out, "int8", "int4"});
  ASSERT_TRUE(status.ok()) << status;
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(out)) {
    names.insert(entry.path().filename());
  }
  EXPECT_EQ(names, (std::set<std::string>{"additional_chat_templates", "config.json",
                                          "model.safetensors", "tokenizer.json"}));
  EXPECT_TRUE(std::filesystem::exists(out + "/additional_chat_templates/tool_use.jinja"));
  const auto checkpoint = *Checkpoint::Open(out);
  const auto type = [&](const std::string& name) { return checkpoint->Find(name)->type; };
  EXPECT_EQ(type("lm_head.weight"), TensorType::kInt4);
  EXPECT_EQ(type("model.layers.0.mlp.up_proj.weight"), TensorType::kInt8);
  EXPECT_EQ(type("model.embed_tokens.weight"), TensorType::kBF16);
}

TEST(QuantizeModel, WhatIsQuantisedIsNotQuantisedAgain) {
  ModelFiles files("qwen3");
  files.Write();
  TempDir temp;
  const std::string out = temp.File("out");
  ASSERT_TRUE(QuantizeModel({files.dir().path(), out, "int8", "int8"}).ok());
  for (const char* weights : {"int4", "int8"}) {
    ExpectRefused(QuantizeModel({out, temp.File("again"), weights, weights}),
                  "is in 8 or 4 bits already");
  }
  EXPECT_FALSE(std::filesystem::exists(temp.File("again")));
}

TEST(QuantizeModel, SaysWhatItCannotWrite) {
  const TempDir temp;
  const std::string file = temp.Write("file", "x");
  ExpectRefused(QuantizeModel({"tests/golden/llama", file, "int8"}),
                "output: cannot make folder " + file);
  ExpectRefused(QuantizeModel({"tests/golden/llama", temp.File("out"), "int8", "none"}),
                "output_weights is \"none\"");
  ExpectRefused(QuantizeModel({"tests/golden/llama", temp.File("out"), "stored"}), "weights is");
  // A disk that is full, as it were: no file may be longer than a page.
  ModelFiles files("llama");
  files.Write();
  files.dir().Write("tokenizer.json", std::string(100'000, ' '));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status full = QuantizeModel({files.dir().path(), temp.File("out"), "int8"});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(full.code(), absl::StatusCode::kInternal) << full;
  EXPECT_NE(full.message().find("cannot copy to it"), std::string::npos) << full;
  EXPECT_FALSE(std::filesystem::exists(temp.File("out")));
}

// So that the next try is not refused for what this one left.
TEST(QuantizeModel, LeavesNothingWhereAWeightCannotBe) {
  const TempDir temp;
  ModelFiles files("llama");
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  const float large = 1e30f;
  std::memcpy(&files.Bytes(name)[(3 * 160 + 70) * sizeof(float)], &large, sizeof large);
  files.Write();
  const std::string why = "tensor " + name + " row 3: value 1e+30 is too large for int8";
  const std::string out = temp.File("out");
  ExpectRefused(QuantizeModel({files.dir().path(), out, "int8"}), why);
  EXPECT_FALSE(std::filesystem::exists(out));
  // A folder that was there stays.
  std::filesystem::create_directory(out);
  ExpectRefused(QuantizeModel({files.dir().path(), out, "int8"}), why);
  EXPECT_TRUE(std::filesystem::is_empty(out));
  EXPECT_TRUE(QuantizeModel({"tests/golden/llama", out, "int8"}).ok());
}

TEST(QuantizeModel, TellsHowFarItIs) {
  const TempDir temp;
  std::vector<size_t> done;
  size_t whole = 0;
  QuantizeOptions options = {"tests/golden/llama", temp.File("out"), "int4"};
  options.progress = [&](size_t bytes, size_t total) {
    done.push_back(bytes);
    whole = total;
  };
  ASSERT_TRUE(QuantizeModel(options).ok());
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_GT(done.size(), 10u);
  EXPECT_EQ(done.back(), whole);
  const size_t file = std::filesystem::file_size(temp.File("out") + "/model.safetensors");
  EXPECT_LT(whole, file);
  EXPECT_GT(whole, file / 2);  // The rest is the header.
}

// A folder quantised ahead, of which one byte of the first group of a tensor is changed.

}  // namespace
}  // namespace packrat
