"""The MDEQ classifier written a second time, naively and without modules, on weights under the papers' keys."""

import torch
import torch.nn.functional as F

EPS = 1e-5


def injection(w, x):
    """u = inject(x)."""
    for conv, norm in (("downsample.0", "downsample.1"), ("downsample.3", "downsample.4"), ("stage0.0", "stage0.1")):
        x = batch_norm(convolution(x, w[f"{conv}.weight"]), w, norm).relu()
    return x


def cell(w, z, u, masks=None):
    """f(z; u) on lists of scales. masks: per scale (B, C_i, 1, 1), already divided by the share that is kept."""
    scales = range(len(z))
    b = [branch(w, i, z[i], u if i == 0 else 0, 1 if masks is None else masks[i]) for i in scales]
    y = [sum(transfer(w, b[j], j, i) for j in scales) for i in scales]
    post = [normalised(w, f"fullstage.post_fuse_layers.{i}.conv") for i in scales]
    return [group_norm(convolution(y[i].relu(), post[i]), 4) for i in scales]


def branch(w, i, z, u, mask):
    at = f"fullstage.branches.{i}.blocks.0"
    h = group_norm(convolution(z, normalised(w, f"{at}.conv1")), 8, w, f"{at}.gn1").relu()
    h = convolution(h, normalised(w, f"{at}.conv2")) * mask + u
    h = group_norm(h, 8, w, f"{at}.gn2") + z
    return group_norm(h.relu(), 8, w, f"{at}.gn3")


def transfer(w, b, j, i):
    """T_ji(b_j), from scale j into scale i."""
    at = f"fullstage.fuse_layers.{i}.{j}.net"
    if j > i:
        up = group_norm(convolution(b, w[f"{at}.conv.weight"]), 8, w, f"{at}.gnorm")
        return up.repeat_interleave(2 ** (j - i), dim=2).repeat_interleave(2 ** (j - i), dim=3)
    for stage in range(i - j):
        b = b.relu() if stage else b
        b = group_norm(convolution(b, w[f"{at}.{stage}.conv.weight"], stride=2), 8, w, f"{at}.{stage}.gnorm")
    return b


def readout(w, z):
    """Logits of a list of scales."""
    y = bottleneck(w, 0, z[0])
    for i in range(len(z) - 1):
        at = f"downsamp_modules.{i}"
        down = convolution(y, w[f"{at}.0.weight"], w[f"{at}.0.bias"], stride=2)
        y = bottleneck(w, i + 1, z[i + 1]) + batch_norm(down, w, f"{at}.1").relu()
    y = batch_norm(convolution(y, w["final_layer.0.weight"], w["final_layer.0.bias"]), w, "final_layer.1").relu()
    return y.mean(dim=(2, 3)) @ w["classifier.weight"].T + w["classifier.bias"]


def bottleneck(w, i, z):
    at = f"incre_modules.{i}.0"
    h = batch_norm(convolution(z, w[f"{at}.conv1.weight"]), w, f"{at}.bn1").relu()
    h = batch_norm(convolution(h, w[f"{at}.conv2.weight"]), w, f"{at}.bn2").relu()
    h = batch_norm(convolution(h, w[f"{at}.conv3.weight"]), w, f"{at}.bn3")
    return (h + batch_norm(convolution(z, w[f"{at}.downsample.0.weight"]), w, f"{at}.downsample.1")).relu()


def convolution(x, weight, bias=None, stride=1):
    return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)


def normalised(w, name):
    """g v / ||v||, the norm per output filter."""
    v = w[f"{name}.weight_v"]
    return w[f"{name}.weight_g"] * v / v.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


def group_norm(x, groups, w=None, name=None):
    grouped = x.reshape(len(x), groups, -1)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = (grouped - mean).square().mean(dim=2, keepdim=True)
    x = ((grouped - mean) / (variance + EPS).sqrt()).reshape(x.shape)
    return x if w is None else x * per_channel(w[f"{name}.weight"]) + per_channel(w[f"{name}.bias"])


def batch_norm(x, w, name):
    """In eval mode; affine where the checkpoint has a weight."""
    mean, variance = per_channel(w[f"{name}.running_mean"]), per_channel(w[f"{name}.running_var"])
    x = (x - mean) / (variance + EPS).sqrt()
    if f"{name}.weight" in w:
        x = x * per_channel(w[f"{name}.weight"]) + per_channel(w[f"{name}.bias"])
    return x


def per_channel(v):
    return v[:, None, None]


@torch.no_grad()
def randomise(model):
    """Every weight and statistic drawn anew, so that none is at a value (0, 1) that would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            fan_in = max(1, tensor[0].numel()) if tensor.dim() > 1 else 4
            tensor.copy_(drawn.abs() + 0.5 if name.endswith(("running_var", "weight_g")) else drawn / fan_in**0.5)
    return model
