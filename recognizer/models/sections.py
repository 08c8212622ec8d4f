"""Every model's own section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from recognizer.models.atnet import AtnetConfig
from recognizer.models.au_gacn import AuGacnConfig
from recognizer.models.capsule_graph import CapsuleGraphConfig
from recognizer.models.capsulenet import CapsulenetConfig
from recognizer.models.dssn import DssnConfig
from recognizer.models.elrcn import ElrcnConfig
from recognizer.models.fusenet import FusenetConfig
from recognizer.models.graph_tcn import GraphTcnConfig
from recognizer.models.htnet import HtnetConfig
from recognizer.models.ice_discriminator import IceDiscriminatorConfig
from recognizer.models.lda import LdaConfig
from recognizer.models.mer_gcn import MerGcnConfig
from recognizer.models.micro_attention import MicroAttentionConfig
from recognizer.models.microexpstcnn import MicroexpstcnnConfig
from recognizer.models.offapex import OffapexConfig
from recognizer.models.region_attention import RegionAttentionConfig
from recognizer.models.ststnet import StstnetConfig
from recognizer.models.svm import SvmConfig


@dataclass(frozen=True, kw_only=True)
class ModelSections:
    """One field a model, of its name."""

    lda: LdaConfig = field(default_factory=LdaConfig)
    svm: SvmConfig = field(default_factory=SvmConfig)
    capsule_graph: CapsuleGraphConfig = field(default_factory=CapsuleGraphConfig)
    region_attention: RegionAttentionConfig = field(default_factory=RegionAttentionConfig)
    ststnet: StstnetConfig = field(default_factory=StstnetConfig)
    offapex: OffapexConfig = field(default_factory=OffapexConfig)
    dssn: DssnConfig = field(default_factory=DssnConfig)
    capsulenet: CapsulenetConfig = field(default_factory=CapsulenetConfig)
    ice_discriminator: IceDiscriminatorConfig = field(default_factory=IceDiscriminatorConfig)
    au_gacn: AuGacnConfig = field(default_factory=AuGacnConfig)
    mer_gcn: MerGcnConfig = field(default_factory=MerGcnConfig)
    graph_tcn: GraphTcnConfig = field(default_factory=GraphTcnConfig)
    elrcn: ElrcnConfig = field(default_factory=ElrcnConfig)
    micro_attention: MicroAttentionConfig = field(default_factory=MicroAttentionConfig)
    microexpstcnn: MicroexpstcnnConfig = field(default_factory=MicroexpstcnnConfig)
    fusenet: FusenetConfig = field(default_factory=FusenetConfig)
    atnet: AtnetConfig = field(default_factory=AtnetConfig)
    htnet: HtnetConfig = field(default_factory=HtnetConfig)
